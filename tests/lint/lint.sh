#!/usr/bin/env bash
# The gates of `make lint`.  Usage: lint.sh [GATE ...]; with no argument all of them, and after each its known-bad sample
# (tests/lint/bad/GATE), which the gate must reject.  The last line counts.
set -u
cd "$(dirname "$0")/../.." || exit 2
CC=${CC:-gcc}
FOLDERS="base format text kernels comm cache sample model sched" # a folder of core may include those before it

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
        grep -zvE '(^|/)tests/(fixtures|models|lint)/|^LICENSE$' | xargs -0r grep -nIE '/(root|home/[a-z]+|work)/|\b(TODO|FIXME|XXX)\b' | cut -c1-160
        if [ "$1" = . ]; then git ls-files -z -co --exclude-standard; else find . -type f -print0; fi |
            xargs -0r ls -l 2>/dev/null | awk '$5 > 16777216 { print $9 ": above 16 MiB" }')
}

# From here on the verdict on the tree is another run's (the build with WERROR=1, the sanitized tests, the fuzz runs): these
# show that such a run can fail.
gate_warnings() {
    for cc in gcc clang; do
        $cc -std=gnu11 -Wall -Wextra -Wpedantic -Wshadow -Werror -fsyntax-only "$1"/*.c 2>/dev/null || echo "$1: $cc -Werror refuses it"
    done
}

sanitized() { # KIND SOURCE
    tmp=$(mktemp -d) && "${3:-clang}" -g -fsanitize="$1" -fno-sanitize-recover=undefined -pthread "$2" -o "$tmp/a" &&
        { (cd "$tmp" && timeout 60 ./a -max_total_time=20 >/dev/null 2>&1) || echo "$2: stopped by $1"; }
    rm -rf "$tmp"
}
gate_address() { sanitized address "$1/sample.c"; }
gate_undefined() { sanitized undefined "$1/sample.c"; }
gate_thread() { sanitized thread "$1/sample.c"; }
gate_fuzzer() { sanitized fuzzer "$1/sample.c"; }

passed=0 failed=0
verdict() { # NAME OK
    if [ "$2" = 0 ]; then passed=$((passed + 1)) && echo "ok      $1"; else failed=$((failed + 1)) && echo "FAILED  $1"; fi
}
for gate in "${@:-includes core_is_quiet format headers hygiene warnings address undefined thread fuzzer}"; do
    for g in $gate; do
        case $g in
        warnings | address | undefined | thread | fuzzer) ;;
        *)
            found=$(gate_"$g" .)
            [ -z "$found" ] || echo "$found"
            verdict "$g" "$([ -z "$found" ]; echo $?)" ;;
        esac
        if [ ! -d "tests/lint/bad/$g" ]; then
            echo "tests/lint/bad/$g is missing" && verdict "$g rejects its known-bad sample" 1
        else
            found=$(gate_"$g" "tests/lint/bad/$g")
            verdict "$g rejects its known-bad sample" "$([ -n "$found" ]; echo $?)"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
