#!/usr/bin/env bash
# A to-do list with nothing but curl: todo.sh add WHAT | list | done ID | remove ID | import FILE | save FILE
# CUBBY_URL, CUBBY_USER and, where the server asks for one, CUBBY_TOKEN say whose.
set -euo pipefail

database="${CUBBY_URL:-http://127.0.0.1:8080}/${CUBBY_USER:-ada}/sql"
headers=()
if [[ -n ${CUBBY_TOKEN:-} ]]; then
    headers=(-H "Authorization: Bearer $CUBBY_TOKEN")
fi

# text VALUE: an argument of a statement. Arguments are never written into the SQL.
text() {
    printf '{"type":"text","value":"%s"}' "$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' <<<"$1")"
}

# execute SQL [ARGUMENT…]: one request of a pipeline.
execute() {
    local sql=$1 IFS=,
    shift
    printf '{"type":"execute","stmt":{"sql":"%s","args":[%s]}}' "$sql" "$*"
}

# post BODY: a pipeline, and its answer.
post() {
    curl -s --fail-with-body "${headers[@]}" "$database/v2/pipeline" -d "$1"
}

# The baton of an answer: what comes next in the same stream is sent with it.
baton() {
    sed 's/^{"baton":\("[^"]*"\|null\).*/\1/'
}

# send BATON REQUEST…: errors of SQL are answered 200, too; the first one is told, and ends the stream and the script.
send() {
    local baton=$1 IFS=, answer why
    shift
    if ! answer=$(post "{\"baton\":$baton,\"requests\":[$*]}"); then
        why=$(sed -n 's/.*"message":"\([^"]*\)".*/\1/p' <<<"$answer")
        echo "${why:-no answer from $database}" >&2
        return 1
    fi
    if [[ $answer == *'{"type":"error"'* ]]; then
        sed -e 's/.*{"type":"error","error":{"message":"//' -e 's/","code".*//' <<<"$answer" >&2
        post "{\"baton\":$(baton <<<"$answer"),\"requests\":[{\"type\":\"close\"}]}" >/dev/null || true
        return 1
    fi
    echo "$answer"
}

# The only value of the last answer.
value() {
    printf '%b\n' "$(sed -e 's/.*"rows":\[\[{"type":"[a-z]*"//' -e 's/^,"value":"\(.*\)"}\]\],"affected.*/\1/' -e 's/^}.*//')"
}

case ${1:-} in
add)
    send null "$(execute 'INSERT INTO todos (what) VALUES (?)' "$(text "$2")")" '{"type":"close"}' >/dev/null
    ;;
list)
    line="id || ' [' || iif(done, 'x', ' ') || '] ' || what"
    send null "$(execute "SELECT group_concat($line, char(10) ORDER BY id) FROM todos")" | value
    ;;
done)
    send null "$(execute 'UPDATE todos SET done = 1 WHERE id = ?' "$(text "$2")")" >/dev/null
    ;;
remove)
    send null "$(execute 'DELETE FROM todos WHERE id = ?' "$(text "$2")")" >/dev/null
    ;;
import)
    # A transaction over several requests. The file is in as a whole or not at all: a stream that is closed, or that
    # nobody goes on with, is rolled back.
    answer=$(send null "$(execute BEGIN)")
    while IFS= read -r what || [[ -n $what ]]; do
        answer=$(send "$(baton <<<"$answer")" "$(execute 'INSERT INTO todos (what) VALUES (?)' "$(text "$what")")")
    done <"$2"
    send "$(baton <<<"$answer")" "$(execute COMMIT)" '{"type":"close"}' >/dev/null
    ;;
save)
    # The database as a file, as it is at one moment.
    curl -fsS "${headers[@]}" "$database/dump" -o "$2"
    ;;
*)
    sed -n 's/^# A to-do list/todo.sh: a to-do list/p' "$0" >&2
    exit 2
    ;;
esac
