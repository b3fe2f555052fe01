# What steps share that start programs: a folder to work in, programs that end with the step, packages, a browser; sourced.

work=$(mktemp -d)
started=()
# stop: ends all programs in started.
stop() {
    for each in "${started[@]}"; do
        kill "$each" 2>/dev/null || true
        wait "$each" 2>/dev/null || true
    done
    started=()
}
trap 'stop; rm -rf "$work"' EXIT

# appears FILE PATTERN: the first group of what matches, as soon as a line does.
appears() {
    local found
    for _ in $(seq 300); do
        found=$(sed -n "s/.*$2.*/\1/p" "$1" | head -n 1)
        if [[ -n $found ]]; then
            echo "$found"
            return
        fi
        sleep 0.1
    done
    cat "$1" >&2
    echo "nothing like $2 appeared" >&2
    return 1
}

# packages FOLDER: what its lock file says, unless that is there.
packages() {
    local sum
    sum=$(sha256sum <"$1/package-lock.json")
    if [[ $(cat "$1/node_modules/.sum" 2>/dev/null) != "$sum" ]]; then
        # No script of a package is run: none of them needs its own.
        (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
        echo "$sum" >"$1/node_modules/.sum"
    fi
}

# chromium_here: Debian's Chromium, installed if it is missing, which takes two minutes.
chromium_here() {
    if ! command -v chromium >/dev/null; then
        if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
            echo "chromium is needed, and cannot be installed here" >&2
            exit 1
        fi
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
    fi
}
