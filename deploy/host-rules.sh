#!/bin/sh
# Keeps the workspaces of a Docker host that organisations share apart from each other's, from the host and from the
# cloud's metadata address. The Engine API can't do that; these are rules of the host's own (INPUT and DOCKER-USER).
#
#   host-rules.sh install POOL [ALLOWED …]   POOL as CONTROLPLANE_NETWORK_POOL; ALLOWED are ADDRESS:PORT of this host
#                                            that workspaces may reach: their tenants' agents' listeners
#   host-rules.sh remove
#
# Installing again replaces what is there, in one step. Needs root, iptables, and a Docker daemon that has made DOCKER-USER. The
# rules go with a reboot: install them from the same unit that starts the control plane.
set -eu

FORWARD=MOLECULE-FORWARD
INPUT=MOLECULE-INPUT

ipt() { iptables --wait "$@"; }

remove() {
    while ipt -D DOCKER-USER -j "$FORWARD" 2>/dev/null; do :; done
    while ipt -D INPUT -j "$INPUT" 2>/dev/null; do :; done
    for chain in "$FORWARD" "$INPUT"; do
        ipt -F "$chain" 2>/dev/null || true
        ipt -X "$chain" 2>/dev/null || true
    done
}

# The whole of both chains, for iptables-restore: what was in them is replaced in one step.
chains() {
    pool=$1 bridged=$2
    shift 2
    echo "*filter"
    echo ":$FORWARD - [0:0]"
    echo ":$INPUT - [0:0]"

    # to anywhere but this host
    echo "-A $FORWARD ! -s $pool -j RETURN"
    echo "-A $FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
    echo "-A $FORWARD -d 169.254.0.0/16 -j DROP"
    # within one network, where the bridge's own traffic passes here at all
    [ "$bridged" = no ] || echo "-A $FORWARD -m physdev --physdev-is-bridged -j RETURN"
    echo "-A $FORWARD -d $pool -j DROP"
    echo "-A $FORWARD -j RETURN"

    # to this host, at whichever of its addresses
    echo "-A $INPUT ! -s $pool -j RETURN"
    echo "-A $INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
    for allowed in "$@"; do
        echo "-A $INPUT -p tcp -d ${allowed%:*} --dport ${allowed##*:} -j RETURN"
    done
    echo "-A $INPUT -j DROP"
    echo "COMMIT"
}

install() {
    pool=$1
    shift
    # a kernel without physdev has no bridged traffic here either
    chains "$pool" yes "$@" | iptables-restore --wait --noflush 2>/dev/null ||
        chains "$pool" no "$@" | iptables-restore --wait --noflush
    ipt -C DOCKER-USER -j "$FORWARD" 2>/dev/null || ipt -I DOCKER-USER -j "$FORWARD"
    ipt -C INPUT -j "$INPUT" 2>/dev/null || ipt -I INPUT -j "$INPUT"
}

case "${1-}" in
    install) shift; [ $# -ge 1 ] || { echo "usage: $0 install POOL [ADDRESS:PORT …]" >&2; exit 2; }; install "$@" ;;
    remove) remove ;;
    *) echo "usage: $0 install POOL [ADDRESS:PORT …] | remove" >&2; exit 2 ;;
esac
