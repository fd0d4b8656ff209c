#!/usr/bin/env bash
# Prepares what a CUDA machine without network needs to run the checks of GPU.md:
#
#     benchmarks/offline.sh FOLDER [PYTHON_VERSION]        here, with network; PYTHON_VERSION is that of the other machine
#     . FOLDER/activate.sh                                 there, in the checkout, after FOLDER was copied to it
#
# The machine has Python, torch, transformers, numba, numpy, h5py, pillow, safetensors, tensorboard, matplotlib, imageio,
# tqdm, filelock, cloudpickle and pytest. What it lacks is carried, 22 MB in all: wheels, the scenes of LIBERO-Goal, and
# libEGL. hf-libero and robosuite are not needed there.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:?usage: benchmarks/offline.sh FOLDER [PYTHON_VERSION]}
version=${2:-3.12}
mkdir -p "$out/wheels" "$out/debs"
out=$(cd "$out" && pwd)

# the same versions as here, so that models compiled by MuJoCo can be read
freeze() { python3 -c "import importlib.metadata as m, sys; print('=='.join((sys.argv[1], m.version(sys.argv[1]))))" "$1"; }
platforms=()
for glibc in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
for package in mujoco gymnasium farama-notifications stable-baselines3 fast-simplification simplejpeg glfw pyopengl \
    typer click annotated-doc shellingham rich markdown-it-py mdurl pygments; do
    python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
        "${platforms[@]}" --dest "$out/wheels" "$(freeze "$package")"
done

python3 -c "from vla_algos.cli.main import main; main()" assets export --suite goal --render-quality fast --assets primitive --out "$out/scenes.zip"

# hardware EGL needs the vendor's driver and this dispatcher; machines that compute often have the first alone
if command -v apt-get >/dev/null; then
    (cd "$out/debs" && apt-get download --quiet libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2)
else
    echo "No apt-get here: the packages libegl1, libglvnd0, libopengl0, libgl1, libglx0 and libgles2 are not carried." >&2
fi

cat >"$out/activate.sh" <<'EOF'
# Source this in the checkout, on the machine without network.
carried=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=${VLA_GYM_SITE:-/tmp/vla_gym_site}
python3 -m pip install --quiet --no-index --no-deps --upgrade --target "$site" "$carried"/wheels/*.whl
# Debian packages: their libraries alone, and into a folder of ours
if ! ldconfig -p | grep -q 'libEGL\.so\.1' && ls "$carried"/debs/*.deb >/dev/null 2>&1; then
    for deb in "$carried"/debs/*.deb; do dpkg-deb --extract "$deb" "$site/gl"; done
    export LD_LIBRARY_PATH="$site/gl/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export __EGL_VENDOR_LIBRARY_DIRS="/usr/share/glvnd/egl_vendor.d:/etc/glvnd/egl_vendor.d"
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
export MUJOCO_GL=egl
export VLA_GYM_SCENES="$site/scenes"
export VLA_GYM_ASSETS=primitive
python3 -m zipfile --extract "$carried/scenes.zip" "$VLA_GYM_SCENES"
python3 -c 'import gymnasium, vla_gym; gymnasium.make("LIBERO-Goal-v0", render_quality="fast").close(); print("Scenes are there.")'
EOF
du -sh "$out"
