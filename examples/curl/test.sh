#!/usr/bin/env bash
# Tries todo.sh against CUBBY_URL, a server with the migrations of this folder and the user CUBBY_USER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

expect() {
    if [[ $2 != "$1" ]]; then
        printf 'expected:\n%s\nfound:\n%s\n' "$1" "$2" >&2
        exit 1
    fi
}

./todo.sh add 'buy milk'
./todo.sh add 'say "hello\world"'
./todo.sh add "it's; DROP TABLE todos"
./todo.sh done 1
./todo.sh remove 2
expect $'1 [x] buy milk\n3 [ ] it\'s; DROP TABLE todos' "$(./todo.sh list)"

printf 'one\ntwo' >"$work/two"
printf 'three\n\nfour' >"$work/empty"
./todo.sh import "$work/two"
# An empty line breaks the table's rule, and nothing of its file stays.
expect 'CHECK constraint failed: what <> '"''" "$(./todo.sh import "$work/empty" 2>&1 || true)"
expect $'1 [x] buy milk\n3 [ ] it\'s; DROP TABLE todos\n4 [ ] one\n5 [ ] two' "$(./todo.sh list)"

./todo.sh save "$work/ada.db"
expect 'SQLite format 3' "$(head -c 15 "$work/ada.db")"
./todo.sh remove 1
expect 'no such user' "$(CUBBY_USER=nobody ./todo.sh list 2>&1 || true)"
echo 'todo.sh works'
