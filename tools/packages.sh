# Shell functions to install Debian packages and to run commands as root. Sourced.

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "error: this needs root: run it as root, or install sudo" >&2
        return 1
    fi
}

# install_packages NAME...: those that are missing; does nothing when all are there.
install_packages() {
    missing=
    for package in "$@"; do
        case $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -z "$missing" ] && return 0
    echo "Installing Debian packages:$missing" >&2
    as_root apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
