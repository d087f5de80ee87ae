#!/bin/sh
# Fuzzes: spec/fuzz/run.sh SECONDS [TARGET...]. Needs `make build`, clang and its runtime (libclang-rt-dev). Runs each
# target for SECONDS, one after another, and stops at a finding; what it learns goes to build/fuzz/TARGET, a finding to
# build/fuzz/TARGET-crash-*, shown with its Lua traceback. Once more: FUZZ_TARGET=T build/fuzz/harness FILE.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:?usage: spec/fuzz/run.sh SECONDS [TARGET...]}
shift
[ $# -gt 0 ] || set -- lua json vars jsondec manifest zip ate
mkdir -p build/fuzz
SAN='-g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all'
new=$(find spec/fuzz/harness.c host/lua_json.c host/lua_zip.c host/lua_crypto.c host/*.h -newer build/fuzz/harness 2>&1 || true)
if [ -n "$new" ]; then
    # shellcheck disable=SC2046,SC2086
    ${CLANG:-clang} $SAN -std=c11 -D_GNU_SOURCE -Wall -Wextra -Ihost $(pkg-config --cflags lua5.4 libzip jansson libcrypto) \
        -o build/fuzz/harness spec/fuzz/harness.c host/lua_json.c host/lua_zip.c host/lua_crypto.c \
        $(pkg-config --libs lua5.4 libzip zlib jansson libcrypto) -lm -ldl -pthread -rdynamic
fi
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:malloc_context_size=2:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1
for target do
    mkdir -p "build/fuzz/$target"
    case $target in
        lua) length=350 dict=lua ;;
        json|vars|jsondec) length=500 dict=json ;;
        ate|manifest) length=700 dict=$target ;;
        *) length=2048 dict=$target ;;
    esac
    mkdir -p "build/fuzz/seeds-$target"
    [ "$target" = ate ] && cp spec/ate/vectors/*.ate "build/fuzz/seeds-$target"
    build/atelier run spec/fuzz/seeds.lua "$target" "build/fuzz/seeds-$target"
    echo "== $target"
    FUZZ_TARGET=$target nice -n 19 build/fuzz/harness -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1500 \
        -max_len="${MAX_LEN:-$length}" -len_control=20 -print_final_stats=1 -dict="spec/fuzz/$dict.dict" -artifact_prefix="build/fuzz/$target-" \
        "build/fuzz/$target" "build/fuzz/seeds-$target"
done
