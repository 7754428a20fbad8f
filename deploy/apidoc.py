#!/usr/bin/env python3
"""apidoc.py OPENAPI.json: writes the API reference, one page of HTML, to standard output.

Everything on the page is in the OpenAPI document, the examples of the curl lines too: a parameter's `example`, and of
a request body the first `example`, or `externalValue` (a file, from the top folder), of its media types.
"""
import html
import json
import shlex
import sys
import urllib.parse

ADDRESS = "http://127.0.0.1:8080"
STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ccc, #555); --soft: light-dark(#f4f4f2, #2a2a2a); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
h3 { font-size: 1.05rem; } code, pre { font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .6rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0; border-top: 1px solid var(--line); }
nav ul { columns: 20rem; padding: 0; list-style: none; }
"""


class Reference:
    def __init__(self, document):
        self.document = document

    def find(self, item):
        """What a `$ref` names, or the item itself."""
        while "$ref" in item:
            target = self.document
            for step in item["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            item = target
        return item

    def operations(self, tag=None):
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                if tag is None or tag in operation["tags"]:
                    yield path, method, operation


def text(value):
    return html.escape(str(value), quote=False)


def element(name, content, **attributes):
    inside = "".join(f' {key}="{html.escape(value)}"' for key, value in attributes.items())
    return f"<{name}{inside}>{content}</{name}>"


def code(value):
    return element("code", text(value))


def table(head, rows):
    if not rows:
        return ""
    lines = [element("tr", "".join(element("th", cell) for cell in head))]
    lines += [element("tr", "".join(element("td", cell) for cell in row)) for row in rows]
    return element("table", "\n".join(lines)) + "\n"


def kind(schema):
    """A schema in a few words: a link, a list, the members of an object, or the name of a type."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return element("a", text(name), href="#" + name)
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return "list of " + kind(schema.get("items", {}))
    if "properties" in schema:
        return "object: " + ", ".join(f"{code(name)} {kind(part)}" for name, part in schema["properties"].items())
    if "additionalProperties" in schema:
        return "object of " + kind(schema["additionalProperties"])
    if "minimum" in schema:
        return f'{schema["type"]}, {schema["minimum"]} to {schema["maximum"]}'
    return text(schema.get("type", "anything"))


def contents(content):
    """The media types of a body, each with its schema."""
    return "<br>".join(code(media) + (" " + kind(item["schema"]) if item.get("schema") else "")
                       for media, item in content.items())


def body_options(content):
    """The curl options that send the example of a body."""
    for media, item in content.items():
        if "example" in item:
            return "--json " + shlex.quote(json.dumps(item["example"], separators=(",", ":")))
        for example in item.get("examples", {}).values():
            return f"-H {shlex.quote('Content-Type: ' + media)} --data-binary @{example['externalValue']}"
    return ""


def curl(path, method, operation, parameters):
    values = {p["name"]: str(p["example"]) for p in parameters if p["in"] == "path"}
    query = {p["name"]: p["example"] for p in parameters if p["in"] == "query" and "example" in p}
    address = ADDRESS + path.format(**values) + ("?" + urllib.parse.urlencode(query) if query else "")
    body = body_options(operation.get("requestBody", {}).get("content", {}))
    verb = "" if method == "get" or (method == "post" and body) else "-X " + method.upper()
    return " ".join(part for part in ("curl", verb, body, shlex.quote(address)) if part)


def scope(operation):
    name = operation.get("x-scope")
    return f"Key with the scope {code(name)}, where there are keys." if name else "Needs no key."


def operation_part(reference, path, method, operation):
    parameters = [reference.find(p) for p in operation.get("parameters", ())]
    replies = {status: reference.find(reply) for status, reply in operation["responses"].items()}
    parts = [element("h3", f"{code(method.upper() + ' ' + path)} {text(operation['summary'])}"),
             element("p", text(operation["description"]) + " " + scope(operation)),
             table(("parameter", "in", "type", ""),
                   [(code(p["name"]), p["in"], kind(p["schema"]), text(p.get("description", ""))) for p in parameters])]
    if "requestBody" in operation:
        parts.append(table(("body",), [(contents(operation["requestBody"]["content"]),)]))
    parts.append(table(("status", "reply", ""),
                       [(code(status), contents(reply.get("content", {})),
                         text(reply["description"]) if status.isdigit() else '<a href="#errors">what is wrong</a>')
                        for status, reply in replies.items()]))
    parts.append(element("pre", text(curl(path, method, operation, parameters)), **{"class": "curl"}))
    return element("article", "\n".join(parts), id=operation["operationId"])


def errors_part(reference):
    parts = [element("h2", "Errors")]
    for name, reply in reference.document["components"]["responses"].items():
        parts.append(element("p", f"{contents(reply.get('content', {}))}: {text(reply['description'])}"))
    return element("section", "\n".join(parts), id="errors")


def schema_part(name, schema):
    required = schema.get("required", ())
    rows = [(code(key) + ("" if key in required else " (optional)"), kind(part), text(part.get("description", "")))
            for key, part in schema.get("properties", {}).items()]
    about = [text(schema["description"])] if "description" in schema else []
    about += [] if rows else [kind(schema)]
    return element("article", element("h3", code(name)) + element("p", "; ".join(about)) +
                   table(("member", "type", ""), rows), id=name)


def page(document):
    reference = Reference(document)
    info = document["info"]
    title = f"{info['title']} {info['version']}: API"
    body = [element("h1", text(title)), element("p", text(info["description"]))]
    links = [element("li", element("a", code(method.upper() + " " + path), href="#" + item["operationId"]))
             for path, method, item in reference.operations()]
    body.append(element("nav", element("ul", "\n".join(links))))
    for tag in document["tags"]:
        parts = [operation_part(reference, *found) for found in reference.operations(tag["name"])]
        body.append(element("section", element("h2", f"{text(tag['name'])}: {text(tag['description'])}") +
                            "\n".join(parts)))
    body.append(errors_part(reference))
    schemas = [schema_part(name, schema) for name, schema in document["components"]["schemas"].items()]
    body.append(element("section", element("h2", "Objects") + "\n".join(schemas)))
    head = ('<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n' +
            element("title", text(title)) + element("style", STYLE))
    return ("<!doctype html>\n" +
            element("html", element("head", head) + "\n" + element("body", "\n".join(body)), lang="en") + "\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n", 1)[0])
    with open(sys.argv[1]) as file:
        sys.stdout.write(page(json.load(file)))


if __name__ == "__main__":
    main()
