# Runs checks and keeps the score; sourced by .ci/run.

wanted=("$@")
passed=()
failed=()
started=$SECONDS

# step NAME COMMAND… : says the name, runs the command, goes on whatever it came to.
step() {
    local name=$1 began=$SECONDS
    shift
    if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then
        return
    fi
    printf '\n==> %s: %s\n' "$name" "$*"
    if "$@" </dev/null; then
        passed+=("$name")
        printf '==> %s: ok, %d s\n' "$name" $((SECONDS - began))
    else
        failed+=("$name")
        printf '==> %s: FAILED, %d s\n' "$name" $((SECONDS - began))
    fi
}

finish() {
    local name known=" ${passed[*]} ${failed[*]} "
    for name in "${wanted[@]}"; do
        if [[ $known != *" $name "* ]]; then
            failed+=("$name (no such check)")
        fi
    done
    printf '\n==> total %d s\n' $((SECONDS - started))
    printf '==> passed: %s\n' "${passed[*]:-none}"
    if ((${#failed[@]})); then
        printf '==> FAILED: %s\n' "${failed[*]}"
        exit 1
    fi
    exit 0
}
