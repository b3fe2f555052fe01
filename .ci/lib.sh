# Runs checks and keeps the score; sourced by .ci/run.

wanted=("$@")
passed=()
failed=()
others=()
started=$SECONDS
# The output of each step, for the summary.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# Ctrl-C does not reach what runs in the background.
trap 'trap - INT TERM; kill 0' INT

# step NAME COMMAND… : says the name, runs the command, goes on whatever it came to.
step() {
    local name=$1 began=$SECONDS
    shift
    if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then
        return
    fi
    printf '\n==> %s: %s\n' "$name" "$*"
    if "$@" </dev/null 2>&1 | tee "$logs/$name"; then
        passed+=("$name")
        printf '==> %s: ok, %d s\n' "$name" $((SECONDS - began))
    else
        failed+=("$name")
        printf '==> %s: FAILED, %d s\n' "$name" $((SECONDS - began))
    fi
}

# beside NAME COMMAND…: a step that runs while those after it do. Its output is printed at the end.
beside() {
    local name=$1 output
    if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then
        return
    fi
    output=$(mktemp)
    printf '\n==> %s: started beside what follows\n' "$name"
    (
        trap - EXIT
        passed=()
        step "$@"
        ((${#passed[@]}))
    ) >"$output" 2>&1 &
    others+=("$name $! $output")
}

finish() {
    local other name process output
    for other in "${others[@]}"; do
        read -r name process output <<<"$other"
        if wait "$process"; then
            passed+=("$name")
        else
            failed+=("$name")
        fi
        cat "$output"
        rm -f "$output"
    done
    local known=" ${passed[*]} ${failed[*]} "
    for name in "${wanted[@]}"; do
        if [[ $known != *" $name "* ]]; then
            failed+=("$name (no such check)")
        fi
    done
    printf '\n==> total %d s\n' $((SECONDS - started))
    printf '==> passed: %s\n' "${passed[*]:-none}"
    if ((${#failed[@]})); then
        # The reasons again, at the end, where whoever has only the end of the output finds them.
        for name in "${failed[@]}"; do
            printf '\n==> the last lines of %s:\n' "$name"
            tail -n 20 "$logs/$name" 2>/dev/null
        done
        printf '==> FAILED: %s\n' "${failed[*]}"
        exit 1
    fi
    exit 0
}
