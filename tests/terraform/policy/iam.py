"""How AWS decides about a request inside one account, as far as the vault's policies use it.

From AWS's documentation of policy evaluation: an explicit deny in the bucket's or the role's policy wins; otherwise an allow in either
is enough. A condition's operators and keys must all hold, its values are alternatives. Of a key that the request does not have,
`Null` tells; a negated operator (`...NotEquals`) holds, any other fails.
"""

import json
import re


class Request:
    """One action on one resource by a principal (`arn`), with what AWS knows of the request (`context`)."""

    def __init__(self, arn, action, resource, context=None):
        self.arn, self.action, self.resource = arn, action, resource
        self.context = {"aws:PrincipalArn": arn, "aws:SecureTransport": "true", "s3:TlsVersion": "1.3", **(context or {})}


def decide(request, bucket_policy, role_policy=None):
    """Whether the request is allowed. Both policies are documents as parsed from JSON; `role_policy` may be None."""
    statements = [(s, True) for s in bucket_policy["Statement"]]
    statements += [(s, False) for s in (role_policy or {"Statement": []})["Statement"]]
    met = [s["Effect"] for s, with_principal in statements if applies(s, request, with_principal)]
    return "Deny" not in met and "Allow" in met


def without(policy, sid):
    """The policy less one statement."""
    return {**policy, "Statement": [s for s in policy["Statement"] if s["Sid"] != sid]}


def applies(statement, request, with_principal):
    if with_principal and not names_principal(statement["Principal"], request.arn):
        return False
    if not any(like(pattern, request.action, ignore_case=True) for pattern in listed(statement["Action"])):
        return False
    if "Resource" in statement and not any(like(p, request.resource) for p in listed(statement["Resource"])):
        return False
    if "NotResource" in statement and any(like(p, request.resource) for p in listed(statement["NotResource"])):
        return False
    conditions = statement.get("Condition", {})
    return all(holds(operator, key, listed(values), request.context)
               for operator, keys in conditions.items() for key, values in keys.items())


def names_principal(principal, arn):
    return principal == "*" or any(named in ("*", arn) for named in listed(principal.get("AWS", [])))


OPERATORS = {
    "StringEquals": lambda have, want: have == want,
    "StringLike": lambda have, want: like(want, have),
    "ArnEquals": lambda have, want: like(want, have),
    "Bool": lambda have, want: have == want,
    "NumericLessThan": lambda have, want: float(have) < float(want),
    "NumericGreaterThan": lambda have, want: float(have) > float(want),
}


def holds(operator, key, values, context):
    if operator == "Null":
        return ("true" if key not in context else "false") in values
    positive = operator.replace("Not", "", 1)
    if positive != operator:
        return key not in context or not any(OPERATORS[positive](context[key], value) for value in values)
    return key in context and any(OPERATORS[operator](context[key], value) for value in values)


def like(pattern, text, ignore_case=False):
    expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(expression, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def listed(value):
    return value if isinstance(value, list) else [value]


def load_actions(file):
    with open(file) as text:
        return json.load(text)["actions"]


def faults(policy, actions):
    """What AWS would refuse, or silently never apply, in a policy for S3: unknown actions, resources that an action does not
    have, condition keys that an action does not know."""
    found = []
    for statement in policy["Statement"]:
        sid = statement["Sid"]
        for action in listed(statement["Action"]):
            if "*" in action:
                continue
            if action not in actions:
                found.append(f"{sid}: there is no action {action}")
                continue
            known = actions[action]
            for resource in listed(statement.get("Resource", []) or []) + listed(statement.get("NotResource", []) or []):
                if resource.startswith("arn:") and not fits(resource, known["resources"]):
                    found.append(f"{sid}: {action} is never about {resource}")
            for keys in statement.get("Condition", {}).values():
                found += [f"{sid}: {action} does not know the key {key}" for key in keys
                          if not key.startswith("aws:") and ":aud" not in key and ":sub" not in key
                          and key not in known["conditions"]]
    return found


def fits(resource, kinds):
    if ":s3:::" in resource:
        return ("object" if "/" in resource else "bucket") in kinds
    return not kinds or any(f":{kind}/" in resource for kind in kinds)
