# shellcheck shell=sh
# Sourced: sets $python to a Python that can make both virtual environments, or ends with what to do about it.
# Uses nothing but the shell, so that a host without a Python gets its answer too.

# Infinity 0.0.78 pins numpy below 2, which has no build for Python 3.13 and later, so those come last and only to be
# named. A name may exist and still not run (pyenv's shims), so each is asked.
probe='
import sys
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    print("old", version)
elif sys.version_info >= (3, 13):
    print("new", version)
else:
    try:
        import ensurepip, venv
        print("ok", version)
    except ImportError:
        print("bare", version)
'
python='' bare='' seen=''
for candidate in python3.12 python3.11 python3 python3.13 python3.14; do
    answer=$("$candidate" -c "$probe" 2>/dev/null) || continue
    case $answer in
        ok*) python=$candidate && break ;;
        bare*) bare=${answer#* } ;;
        *) seen="$seen $candidate (${answer#* })" ;;
    esac
done
unset probe candidate answer

if [ -z "$python" ] && [ -n "$bare" ]; then
    echo "${0##*/}: Python $bare is here, but not its venv module: run \`apt-get install python$bare-venv\` as root," \
        "then try again" >&2
    exit 1
elif [ -z "$python" ]; then
    echo "${0##*/}: no Python 3.11 or 3.12 on the PATH${seen:+ (only$seen)}: on Debian 12 or Ubuntu 24.04 run" \
        "\`apt-get install python3 python3-venv\` as root; elsewhere put one on the PATH, then try again" >&2
    exit 1
fi

# Neither another environment's modules nor a user-wide pip setting may leak into ours.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV bare seen
