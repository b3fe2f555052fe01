"""What the files in deploy/ say of each other and of Cubby: `deploy.py CUBBY COMPOSE_SCHEMA`."""

import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import cloudinit
import jsonschema
import yaml

cubby, compose_schema = sys.argv[1:]
wrong = []


def read(name):
    return pathlib.Path(name).read_text()


def expect(holds, what):
    if not holds:
        wrong.append(what)


def variables(text):
    """The settings of a file of NAME=value lines."""
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def asked(settings):
    """What `cubby check-config` says of these settings."""
    command = [cubby, "check-config", "--json"]
    answer = subprocess.run(command, env=settings, cwd="/", capture_output=True, text=True, check=False)
    return json.loads(answer.stdout) if answer.stdout else {"settings": [], "unknown": [], "wrong": [answer.stderr]}


dockerfile = read("deploy/Dockerfile")
image = dict(word.split("=", 1) for line in re.findall(r"^ENV (.*)$", dockerfile, re.M) for word in line.split())
compose = yaml.safe_load(read("deploy/compose.yaml"))
fly = tomllib.loads(read("deploy/fly.toml"))
cloud = yaml.safe_load(read("deploy/cloud-init.yaml"))
env = variables(read("deploy/cubby.env"))
unit = read("deploy/cubby.service")
by_unit = dict(word.split("=", 1) for line in re.findall(r"^Environment=(.*)$", unit, re.M) for word in line.split())
json.loads(read("deploy/grafana/cubby.json"))

# Each set of settings starts a server once the secrets are there.
secrets = {"ADMIN_API_KEY": "0" * 64, "CLERK_WEBHOOK_SECRET": "whsec_Y3ViYnktZmlyc3QtZml2ZS1taW51dGVz"}
service = compose["services"]["cubby"]
sets = {
    "the unit with cubby.env": by_unit | env,
    "compose.yaml": image | env | service["environment"],
    "fly.toml": image | fly["env"],
}
known = set()
for name, settings in sets.items():
    said = asked(settings | secrets)
    known |= {setting["variable"] for setting in said["settings"]}
    expect(not said["unknown"] and not said["wrong"], f"{name}: {said['unknown']} {said['wrong']}")
    behind = settings["CUBBY_AUTH"] != "none" and settings.get("CUBBY_INSECURE", "false") == "false"
    expect(behind, f"{name}: callers are not authenticated")

# Every setting that is named is one. CUBBY_URL is the command line's.
for page in ["docs/DEPLOY.md", *map(str, pathlib.Path("deploy").rglob("*"))]:
    if pathlib.Path(page).is_file():
        named = set(re.findall(r"\b(?:CUBBY|CLERK|HOOKDECK)_[A-Z_]*[A-Z]\b|\bADMIN_API_KEY\b", read(page)))
        expect(named <= known | {"CUBBY_URL"}, f"{page} names what is no setting: {named - known}")

# Compose. The project's name is newer than the schema.
schema = json.loads(read(compose_schema))
checked = {key: value for key, value in compose.items() if key != "name"}
wrong += [f"compose.yaml: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(checked)]
expect(f"cubby-data:{image['CUBBY_DATA']}" in service["volumes"], "compose.yaml: the volume is not the data folder")
expect(service["network_mode"] == "service:caddy", "compose.yaml: Caddy reaches another loopback than Cubby's")
expect(service["env_file"] == ["cubby.env", "secrets.env"], "compose.yaml: other settings than these were looked at")
expect(f"reverse_proxy {service['environment']['CUBBY_LISTEN']} " in read("deploy/Caddyfile"), "Caddyfile: another port")

# Fly.
port = int(fly["env"]["CUBBY_LISTEN"].rsplit(":", 1)[1])
expect(fly["http_service"]["internal_port"] == port, "fly.toml: internal_port is not the server's")
expect(fly["mounts"][0]["destination"] == image["CUBBY_DATA"], "fly.toml: the volume is not the data folder")
expect(f" AS {fly['build']['build-target']}\n" in dockerfile, "fly.toml: the Dockerfile has no such stage")
for file in (fly["build"]["dockerfile"], fly["build"]["ignorefile"]):
    expect(pathlib.Path("deploy", file).is_file(), f"fly.toml: there is no {file}")

# A key that cloud-init does not know is no error to it.
modules = json.loads(next(pathlib.Path(cloudinit.__file__).parent.glob("config/schemas/schema-cloud-config*.json")).read_text())
keys = {key for part in modules["$defs"].values() for key in part.get("properties", {})}
expect(set(cloud) <= keys, f"cloud-init.yaml: cloud-init does not know {set(cloud) - keys}")

# The user data has copies of files, so that it can be pasted as it stands.
written = {file["path"]: file["content"] for file in cloud["write_files"]}
for path, copied in {
    "/etc/cubby.env": "deploy/cubby.env",
    "/etc/systemd/system/cubby.service": "deploy/cubby.service",
    "/etc/caddy/Caddyfile": "deploy/Caddyfile",
}.items():
    expect(written[path] == read(copied), f"cloud-init.yaml: {path} is not {copied}: copy it, indented by six")

# What the program is built from, by the compiler's own word, is let into the image's build.
let_in = [line[1:] for line in read("deploy/Dockerfile.dockerignore").split() if line.startswith("!")]
root = pathlib.Path.cwd()
sources = [pathlib.Path(path) for path in read(f"{cubby}.d").split(":", 1)[1].replace("\\\n", " ").split()]
tops = {path.relative_to(root).parts[0] for path in sources if path.is_relative_to(root)} | {"Cargo.toml", "Cargo.lock", ".cargo"}
expect("src" in tops, f"{cubby}.d names no source of this folder")
for top in sorted(tops):
    expect(any(fnmatch.fnmatch(top, pattern) for pattern in let_in), f"Dockerfile.dockerignore leaves out {top}")

print("\n".join(wrong))
sys.exit(bool(wrong))
