#!/bin/sh
# Keeps the workspaces of a Docker host that organisations share apart from each other's, from the host and from the
# cloud's metadata address. The Engine API can't do that; these are rules of the host's own (INPUT and DOCKER-USER).
#
#   host-rules.sh install POOL [ALLOWED …]   POOL as CONTROLPLANE_NETWORK_POOL; ALLOWED are ADDRESS:PORT of this host
#                                            that workspaces may reach: their tenants' agents' listeners
#   host-rules.sh remove
#
# Installing again replaces what is there. Needs root, iptables, and a Docker daemon that has made DOCKER-USER. The
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

install() {
    pool=$1
    shift
    remove
    ipt -N "$FORWARD"
    ipt -N "$INPUT"

    # to anywhere but this host
    ipt -A "$FORWARD" ! -s "$pool" -j RETURN
    ipt -A "$FORWARD" -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
    ipt -A "$FORWARD" -d 169.254.0.0/16 -j DROP
    # within one network, where the bridge's own traffic passes here at all
    ipt -A "$FORWARD" -m physdev --physdev-is-bridged -j RETURN 2>/dev/null || true
    ipt -A "$FORWARD" -d "$pool" -j DROP
    ipt -A "$FORWARD" -j RETURN

    # to this host, at whichever of its addresses
    ipt -A "$INPUT" ! -s "$pool" -j RETURN
    ipt -A "$INPUT" -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
    for allowed in "$@"; do
        ipt -A "$INPUT" -p tcp -d "${allowed%:*}" --dport "${allowed##*:}" -j RETURN
    done
    ipt -A "$INPUT" -j DROP

    # last, so that nothing passes half-made chains
    ipt -I DOCKER-USER -j "$FORWARD"
    ipt -I INPUT -j "$INPUT"
}

case "${1-}" in
    install) shift; [ $# -ge 1 ] || { echo "usage: $0 install POOL [ADDRESS:PORT …]" >&2; exit 2; }; install "$@" ;;
    remove) remove ;;
    *) echo "usage: $0 install POOL [ADDRESS:PORT …] | remove" >&2; exit 2 ;;
esac
