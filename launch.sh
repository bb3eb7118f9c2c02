#!/usr/bin/env bash
# Sets up .venv where needed, then runs an experiment or the checks: see --help.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail

root=$(dirname -- "$(readlink -f -- "$0")")
venv=$root/.venv
stamp=$venv/launch-stamp # Written last: .venv is complete if it is there.

# An activated venv or a caller's settings must not leak into ours. Experiments
# find modules of the caller's own after all others.
caller_path=${PYTHONPATH:-}
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX

usage() {
  cat << 'END'
Usage:
  ./launch.sh [--flag=value ...]             the default experiment
  ./launch.sh test                           all checks: ruff, mypy, pytest
  ./launch.sh test PYTEST_ARGUMENT ...       selected tests
  ./launch.sh EXPERIMENT --config=configs/FILE.py[:variant] --workdir=DIR \
    [--config.field=value ...]               any other experiment
  ./launch.sh EXPERIMENT --help              the flags of an experiment
  ./launch.sh --processes=N ...              an experiment in N processes

The default experiment is compare with configs/nsl_digits.py, on embedded data;
its workdir is runs/nsl_digits in the project.

Experiments:
END
  local name
  for name in $(experiments); do
    printf '  %-12s %s\n' "$name" "$(
      sed -n '/^"""/ { s/"""//g; p; q; }' "$root/experiments/$name.py"
    )"
  done
  cat << 'END'

Paths are relative to the current folder; a --config that it lacks is searched in
the project. Modules of your own are imported from PYTHONPATH and the current
folder. The package installs a command 'advjax' that does the same with train,
compare, evaluate, sweep and explain.

The first call creates .venv in the project, with the build of jax for this
machine (CUDA, TPU or CPU). PYTHON=/path/to/python3 selects the interpreter (3.11
or newer), JAX_PLATFORMS=cpu the build for CPUs.
END
}

note() { printf 'launch.sh: %s\n' "$1" >&2; }

fail() { # EXIT_CODE MESSAGE
  note "error: $2"
  exit "$1"
}

experiments() { # Prints the names of the files in experiments/.
  (cd "$root" && ls experiments) | sed -n 's/^\([a-z][a-z0-9_]*\)\.py$/\1/p'
}

unknown_experiment() { # NAME: names the known ones, and the most alike.
  local name length best=''
  for length in 1 2 3; do
    for name in $(experiments); do
      [[ ${name:0:length} != "${1:0:length}" ]] || best=$name
    done
  done
  fail 2 "unknown experiment '$1'; allowed: $(experiments | paste -s -d ' ' -)\
${best:+; did you mean $best?}"
}

jax_build() { # Prints the extra of jax that fits the machine, or cpu.
  if [[ ${JAX_PLATFORMS:-} == cpu ]]; then
    echo cpu
  elif [[ -n ${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_ID:-} ]] ||
    compgen -G '/dev/accel[0-9]*' > /dev/null ||
    { compgen -G '/dev/vfio/[0-9]*' > /dev/null &&
      grep -qsx 0x1ae0 /sys/bus/pci/devices/*/vendor; }; then
    echo tpu
  elif type -P nvidia-smi > /dev/null; then
    # CUDA 13 needs driver 580 and compute capability 7.5, CUDA 12 driver 525.
    nvidia-smi --format=csv,noheader --query-gpu=driver_version,compute_cap \
      2> /dev/null | awk -F ', *' '
        $1 + 0 < 580 || $2 + 0 < 7.5 { cuda = 12 }
        $1 + 0 < 525 { too_old = 1 }
        END { print (!NR || too_old) ? "cpu" : "cuda" (cuda ? cuda : 13) }' ||
      true # Without a GPU nvidia-smi fails, and awk has said cpu.
  else
    echo cpu
  fi
}

# Prints an interpreter's version and its path outside of any venv. Exits with 3
# if it is too old, with 4 if it cannot make a venv (Debian splits that off).
probe='
import sys
sys.stdout.write("%d.%d" % sys.version_info[:2])
if sys.version_info < (3, 11):
  sys.exit(3)
try:
  import ensurepip, venv
except ImportError:
  sys.exit(4)
sys.stdout.write(" " + (getattr(sys, "_base_executable", "") or sys.executable))
'

find_python() { # Prints "VERSION PATH" of the first interpreter that will do.
  local name found code too_old='' without_venv=''
  local names=(python3.13 python3.12 python3.11 python3)
  [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    code=0
    found=$("$name" -c "$probe" 2> /dev/null) || code=$?
    case $code in
      0) printf '%s' "$found" && return ;;
      3) too_old+=", $name is $found" ;;
      4) without_venv=$found ;;
    esac
  done
  [[ -z $without_venv ]] ||
    fail 1 "Python $without_venv lacks its venv module; install it (on Debian \
and Ubuntu: apt install python$without_venv-venv) and run this again"
  fail 1 "Python 3.11 or newer is needed, but was not found (tried: \
${names[*]}$too_old); PYTHON=/path/to/python3 names another one"
}

version_of() { # PYTHON: prints its version, say 3.12.
  "$1" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null
}

stamp_text() { # VERSION BUILD
  printf '%s %s\n%s\n' "$1" "$2" "$(< "$root/requirements.txt")"
}

up_to_date() { # Is .venv whole, and what requirements and machine ask for?
  [[ -f $stamp ]] || return 1
  local version build
  read -r version build < "$stamp" || return 1
  [[ $(< "$stamp") == "$(stamp_text "$version" "$build")" ]] || return 1
  [[ $(version_of "$venv/bin/python") == "$version" ]] || return 1
  [[ -z ${PYTHON:-} || $(version_of "$PYTHON") == "$version" ]] || return 1
  # A build for an accelerator runs on a machine without one too (a cluster's
  # login node); the other way round it would leave the accelerator idle.
  [[ $build != cpu || $(jax_build) == cpu ]]
}

# Waits until no other launch is setting up. A child's lock on a file that we
# opened is ours: this is what flock(1) does, where there is one.
lock='
import fcntl, sys
try:
  fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  sys.stderr.write("launch.sh: waiting for another launch to set up .venv\n")
  fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
  pass  # Not every network file system has locks.
'

set_up() { # Makes .venv, or brings it up to date.
  local python version build packages output start=$SECONDS
  python=$(find_python) || exit 1
  version=${python%% *} python=${python#* }
  { exec 9>> "$root/.venv.lock"; } 2> /dev/null ||
    fail 1 "cannot write to '$root', where .venv belongs"
  "$python" -c "$lock"
  if ! up_to_date; then
    build=$(jax_build)
    packages=(-r "$root/requirements.txt")
    [[ $build == cpu ]] || packages+=("jax[$build]")
    note "setting up .venv (Python $version, jax for $build), some minutes"
    # Only a whole .venv is worth keeping; without its stamp it no longer is.
    if [[ ! -f $stamp || $(version_of "$venv/bin/python") != "$version" ]]; then
      output=$("$python" -m venv --clear "$venv" 2>&1) ||
        fail 1 "making .venv failed: $output"
    fi
    rm -f "$stamp"
    output=$(PIP_USER=0 "$venv/bin/python" -m pip install --quiet --no-input \
      --disable-pip-version-check "${packages[@]}" 2>&1) ||
      fail 1 "installing requirements.txt failed (it needs the network to PyPI):
$(grep ^ERROR <<< "$output" || tail -n 5 <<< "$output")"
    stamp_text "$version" "$build" > "$stamp.new"
    mv "$stamp.new" "$stamp"
    note ".venv is ready after $((SECONDS - start)) s"
  fi
  exec 9>&- # Else the job would hold the lock.
}

check() { # TOOL ARGUMENT ...: shows what the tool says where it fails.
  local output
  output=$("$venv/bin/python" -m "$@" 2>&1) ||
    fail 1 "'$*' failed:
$output"
}

check_all() { # COMMAND ...: exits with 0 if the linters and the tests pass.
  local typed code=0
  check ruff check --quiet .
  check ruff format --check .
  typed=$(mktemp)
  # One thread for half a minute, beside the tests; reported after them.
  check mypy 2> "$typed" &
  "$@" || code=$?
  wait $! || code=1
  cat "$typed" >&2
  rm "$typed"
  exit "$code"
}

processes=1 arguments=()
for argument; do
  case $argument in
    --processes=*) processes=${argument#*=} ;;
    --processes) fail 2 '--processes = ; allowed: --processes=N, in one word' ;;
    *) arguments+=("$argument") ;;
  esac
done
set -- "${arguments[@]+"${arguments[@]}"}"
[[ $processes =~ ^[1-9][0-9]{0,3}$ ]] ||
  fail 2 "--processes = $processes; allowed: an integer >= 1"

case ${1:-} in
  -h | --help) usage && exit ;;
  '' | -*) set -- compare "--config=$root/configs/nsl_digits.py" \
    "--workdir=$root/runs/nsl_digits" "$@" ;;
esac

if [[ $1 == test ]]; then
  ((processes == 1)) || fail 2 "--processes = $processes; allowed: 1 for the tests"
  command=(pytest "${@:2}")
  # A file's tests stay together: they share what they compile.
  (($# > 1)) || command+=(--numprocesses=auto --maxprocesses=4 --dist=loadfile)
else
  [[ $1 =~ ^[a-z][a-z0-9_]*$ && -e $root/experiments/$1.py ]] ||
    unknown_experiment "$1"
  command=("experiments.$1" "${@:2}")
fi

up_to_date || set_up
export PYTHONPATH=$root
if [[ $1 == test ]]; then
  cd "$root"
else
  export ADVJAX_PYTHONPATH=$caller_path
fi
# -P: no file in the caller's folder shadows a module.
command=("$venv/bin/python" -P -m "${command[@]}")
((processes == 1)) || command=(
  "$venv/bin/python" -P -m advjax.processes.launcher "$processes" "${command[@]}"
)
[[ $* != test ]] || check_all "${command[@]}"
exec "${command[@]}"
