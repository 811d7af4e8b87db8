#!/usr/bin/env bash
# The programs that the pages call, as they lie in a reader's PATH: those that the tests have built,
# and the Python that tests use. What is called with MORE set gets its words as further arguments.
set -euo pipefail

more=${MORE:-}
unset MORE
given=("$@")
# What follows `--` is the program's.
[[ $0 != */cargo || -z $more || " $* " == *" -- "* ]] || given+=(--)
# shellcheck disable=SC2206
given+=($more)

# Without a GPU, what asks for one runs on the CPU.
on_this_machine() {
    local word
    words=()
    for word in "$@"; do
        [ "$word" = cuda ] && [ "$CUDA" = no ] && word=cpu
        words+=("$word")
    done
}

fail() {
    echo "$1" >&2
    exit 1
}

# The newest binary of the test $2 of the package in $1.
test_binary() {
    local list
    for list in $(ls -t "$BUILT/deps/$2"-*.d 2>/dev/null); do
        # What only checks a test leaves a list without a binary.
        if [ -x "${list%.d}" ] && grep -q "${1#"$REPOSITORY"/}/tests/$2[./]" "$list"; then
            echo "${list%.d}"
            return
        fi
    done
    fail "the test $2 is not built: cargo test --workspace builds it"
}

run_cargo() {
    local command=$1 package='' example='' suite='' filters=()
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --release) ;;
            -p) package=$2; shift ;;
            --example) example=$2; shift ;;
            --test) suite=$2; shift ;;
            --) shift; break ;;
            -*) fail "cargo $command $1 is not known here" ;;
            *) filters+=("$1") ;;
        esac
        shift
    done
    local program="$BUILT/$package"
    [ -z "$example" ] || program="$BUILT/examples/$example"
    case $command in
        run) exec "$program" "$@" ;;
        build) [ -x "$program" ] || fail "$program is not built" ;;
        test)
            local folder="$REPOSITORY/crates/$package" binary
            binary=$(test_binary "$folder" "$suite")
            cd "$folder"
            local said
            said=$("$binary" "${filters[@]}" "$@") || fail "$said"
            # Neither of a name that no test has, nor of one that is ignored.
            [[ $said != *"ok. 0 passed"* ]] || fail "none of its tests has run: $suite ${filters[*]}" ;;
        *) fail "cargo $command is not known here" ;;
    esac
}

on_this_machine "${given[@]}"
given=("${words[@]}")
case $0 in
    */cargo) run_cargo "${given[@]}" ;;
    */old/bin/python) exec "${RLAIF_OLD_PYTHON:-$RLAIF_PYTHON}" "${given[@]}" ;;
    */python | */python3) exec "$RLAIF_PYTHON" "${given[@]}" ;;
    *) exec "$BUILT/rlaif" "${given[@]}" ;;
esac
