#!/usr/bin/env bash
# The gates of `make lint`.  Usage: lint.sh [GATE ...]; with no argument all of them, and after each its known-bad sample
# (tests/lint/bad/GATE), which the gate must reject.  The last line counts.
set -u
cd "$(dirname "$0")/../.." || exit 2
CC=${CC:-gcc}
FOLDERS="base format text grammar kernels comm cache sample model sched" # a folder of core may include those before it

sources() { # every C file below $1, known-bad samples apart
    (cd "$1" && find include core server tests -name bad -prune -o -name '*.[ch]' -print 2>/dev/null | sort)
}

gate_includes() { # one way: server -> include/llama4 <- core, and inside core only upwards
    sources "$1" | grep -v '^tests/' | while read -r file; do
        grep -nE '^[ \t]*#[ \t]*include' "$1/$file" | while IFS= read -r line; do
            header=$(sed -E 's/.*include[ \t]*[<"]([^>"]+)[>"].*/\1/' <<<"$line")
            why=
            case $file in
            include/*) case $header in core/* | server/* | *uv.h | *microhttpd.h | *cJSON.h) why="the public API stands alone" ;; esac ;;
            server/*)
                case $header in
                core/*) why="server/ may include only include/llama4 and server/" ;;
                microhttpd.h) case $file in server/httpd* | server/http_*) ;; *) why="libmicrohttpd stays behind server/http.h" ;; esac ;;
                esac ;;
            core/*)
                case $header in
                server/* | uv.h | microhttpd.h) why="core/ knows no server" ;;
                *cJSON.h) case $file in core/format/* | core/text/*) ;; *) why="cJSON in core is for checkpoint files" ;; esac ;;
                core/*/*)
                    mine=${file#core/} mine=${mine%%/*} theirs=${header#core/} theirs=${theirs%%/*}
                    case $mine in *.c | *.h) continue ;; esac # core/engine.c stands above all folders
                    [[ " $FOLDERS " == *" $mine "* ]] || why="folder core/$mine is not in the list of design"
                    [[ "$theirs" == "$mine" || " ${FOLDERS%%"$mine"*}" == *" $theirs "* ]] || why="core/$mine may not use core/$theirs" ;;
                core/*) case $file in core/*/*) why="a folder of core may not use what stands above it" ;; esac ;;
                esac ;;
            esac
            [ -z "$why" ] || echo "$file:${line%%:*}: includes $header: $why"
        done
    done
}

gate_core_is_quiet() { # the engine prints nothing and ends no process; base/sigbus.c says why it may
    sources "$1" | grep '^core/' | while read -r file; do
        [ "$file" = core/base/sigbus.c ] && continue
        grep -nE '(^|[^a-z_.>])(printf|fprintf|puts|fputs|putchar|perror|exit|_exit|abort|system)[ ]*\(' "$1/$file" |
            grep -vE '^[0-9]+:[ \t]*(/?\*|//)' | sed "s|^|$file:|; s|\$|   <- core/ neither prints nor exits|"
    done
}

gate_format() { # clang-format's opinion is the opinion
    sources "$1" | (cd "$1" && xargs -r clang-format --style=file:"$OLDPWD/.clang-format" --dry-run -Werror 2>&1 | grep -E 'error:' | head -40)
}

gate_headers() { # each header compiles alone
    sources "$1" | grep '\.h$' | while read -r file; do
        (cd "$1" && "$CC" -std=gnu11 -D_GNU_SOURCE -I. -Iinclude -fsyntax-only -x c "$file") >/dev/null 2>&1 || echo "$file: does not compile alone"
    done
}

gate_hygiene() { # nothing of a particular machine, nothing unfinished, nothing huge
    (cd "$1" && if [ "$1" = . ]; then git ls-files -z -co --exclude-standard; else find . -type f -print0; fi |
        grep -zvE '(^|/)tests/(fixtures|models|lint)/|^LICENSE$' | xargs -0r grep -nHIE '/(root|home/[a-z]+|work)/|\b(TODO|FIXME|XXX)\b' | cut -c1-160
        if [ "$1" = . ]; then git ls-files -z -co --exclude-standard; else find . -type f -print0; fi |
            xargs -0r ls -l 2>/dev/null | awk '$5 > 16777216 { print $9 ": above 16 MiB" }')
}

# From here on the verdict on the tree is another run's (the build with WERROR=1, the sanitized tests, the fuzz runs, the
# tests themselves): these show that such a run can fail, with the flags and the runners that it uses.
by_make() { # BUILD TARGET VARIABLE=VALUE...
    env -u MAKEFLAGS -u MAKELEVEL make -s "BUILD=$1" "${@:3}" "$1/$2" >/dev/null 2>&1
}

gate_warnings() { # both compilers, and for the warnings alone
    local tmp cc
    tmp=$(mktemp -d)
    for cc in gcc clang; do
        by_make "$tmp/$cc" "obj/$1/sample.o" CC=$cc WERROR= && rm "$tmp/$cc/obj/$1/sample.o" &&
            ! by_make "$tmp/$cc" "obj/$1/sample.o" CC=$cc WERROR=1 && echo "refused by $cc" >>"$tmp/refused"
    done
    [ "$(wc -l 2>/dev/null <"$tmp/refused")" != 2 ] || echo "$1/sample.c: refused"
    rm -rf "$tmp"
}

sanitized() { # SANITIZE DIR: built as `make asan` and `make tsan` build, warnings apart, it must end with a report
    local tmp
    tmp=$(mktemp -d)
    if by_make "$tmp" "lint/${2##*/}" "SANITIZE=$1" WERROR= CFLAGS='-O1 -g1'; then
        timeout 60 "$tmp/lint/${2##*/}" >"$tmp/log" 2>&1 || ! grep -E 'Sanitizer|runtime error' "$tmp/log" >/dev/null ||
            echo "$2/sample.c: stopped"
    fi
    rm -rf "$tmp"
}
gate_address() { sanitized address,undefined "$1"; }
gate_undefined() { sanitized address,undefined "$1"; }
gate_thread() { sanitized thread "$1"; }

gate_fuzzer() {
    local tmp
    tmp=$(mktemp -d)
    ! by_make "$tmp" lint/fuzzer CC=clang WERROR= SANITIZE=fuzzer-no-link,address,undefined CFLAGS='-O1 -g' ||
        ! mv "$tmp/lint/fuzzer" "$tmp/fuzz_sample" ||
        BUILD=$tmp FUZZ_SECONDS=20 tests/fuzz/run.sh "$tmp/fuzz_sample" >/dev/null 2>&1 || echo "$1/sample.c: found"
    rm -rf "$tmp"
}

gate_runner() { # tests/run.sh: programs that fail, crash, leave with a bad status or test nothing
    local tmp sample
    tmp=$(mktemp -d)
    mkdir -p "$tmp/tests/unit/one"
    for sample in "$1"/../../sound.sh "$1"/*; do
        install "$sample" "$tmp/tests/unit/one/test_one"
        if BUILD=$tmp tests/run.sh unit >/dev/null 2>&1; then
            continue
        fi
        [ "$sample" != "$1"/../../sound.sh ] || break # what refuses everything is no gate
        echo "$sample: refused"
    done
    rm -rf "$tmp"
}

gate_ci() { # .ci/run: stages that fail, that count a failure, that crash behind a good count; no stages
    local tmp sample
    tmp=$(mktemp -d)
    echo 'stage sound echo 1 passed, 0 failed' >"$tmp/sound"
    for sample in "$tmp/sound" "$1"/*; do
        if .ci/run "$sample" >"$tmp/log" 2>&1; then
            continue
        fi
        [ "$sample" != "$tmp/sound" ] || break # what refuses everything is no gate
        echo "$sample: refused"
    done
    rm -rf "$tmp"
}

passed=0 failed=0
verdict() { # NAME OK
    if [ "$2" = 0 ]; then passed=$((passed + 1)) && echo "ok      $1"; else failed=$((failed + 1)) && echo "FAILED  $1"; fi
}
all_named() { # GATE TEXT: does the text name every file of the gate's known-bad sample?
    local file
    find "tests/lint/bad/$1" -type f | while read -r file; do
        grep -qF "${file#tests/lint/bad/"$1"/}" <<<"$2" || echo "$file"
    done
}
for gate in "${@:-includes core_is_quiet format headers hygiene warnings address undefined thread fuzzer runner ci}"; do
    for g in $gate; do
        case $g in
        warnings | address | undefined | thread | fuzzer | runner | ci) ;;
        *)
            found=$(gate_"$g" .)
            [ -z "$found" ] || echo "$found"
            verdict "$g" "$([ -z "$found" ]; echo $?)" ;;
        esac
        if [ ! -d "tests/lint/bad/$g" ]; then
            echo "tests/lint/bad/$g is missing" && verdict "$g rejects its known-bad sample" 1
        else
            missed=$(all_named "$g" "$(gate_"$g" "tests/lint/bad/$g")")
            [ -z "$missed" ] || echo "not rejected: $missed"
            verdict "$g rejects its known-bad sample" "$([ -z "$missed" ]; echo $?)"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
