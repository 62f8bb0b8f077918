"""A small S3 client of the standard library alone, for requests that no SDK would send."""

import datetime
import hashlib
import hmac
import http.client
import re
import urllib.parse

EMPTY = hashlib.sha256(b"").hexdigest()


class Answer:
    """What the store said: `status`, `code` of the error (None without one), `headers` and `body`."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        found = re.search(rb"<Code>([^<]*)</Code>", body)
        self.code = found.group(1).decode() if found else None

    @property
    def refused(self):
        """Whether the store would not let this identity do it. A batch says so inside of a 200."""
        return self.status == 403 or self.code == "AccessDenied"

    def __str__(self):
        return f"{self.status} {self.code or ''}".strip()


class Client:
    """Requests of one identity to one bucket, signed by AWS Signature Version 4. `tls` is an `ssl.SSLContext`."""

    def __init__(self, endpoint, bucket, access_key, secret_key, region="us-east-1", tls=None):
        url = urllib.parse.urlsplit(endpoint)
        self.host, self.secure, self.bucket = url.netloc, url.scheme == "https", bucket
        self.access_key, self.secret_key, self.region = access_key, secret_key, region
        self.tls = tls

    def request(self, method, key="", query=None, headers=None, body=b""):
        """Sends one request; `key` "" is the bucket itself. Never retries."""
        path = "/" + self.bucket + ("/" + key if key else "")
        path = urllib.parse.quote(path, safe="/-_.~")
        pairs = sorted((query or {}).items())
        line = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
        headers = self._signed(method, path, line, dict(headers or {}), body)
        connection = self._connect()
        try:
            connection.request(method, path + ("?" + line if line else ""), body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def _connect(self):
        if self.secure:
            return http.client.HTTPSConnection(self.host, timeout=30, context=self.tls)
        return http.client.HTTPConnection(self.host, timeout=30)

    def _signed(self, method, path, line, headers, body):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest() if body else EMPTY
        headers.update({"host": self.host, "x-amz-date": now, "x-amz-content-sha256": digest})
        headers = {name.lower(): value.strip() for name, value in headers.items()}
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join([method, path, line, lines, names, digest])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = ("AWS4" + self.secret_key).encode()
        for part in [now[:8], self.region, "s3", "aws4_request"]:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        credential = f"Credential={self.access_key}/{scope}"
        headers["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return headers


def quote(text):
    return urllib.parse.quote(text, safe="-_.~")
