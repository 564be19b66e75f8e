set -u
umask 077
DATA=/var/lib/molecule/$WORKSPACE
INIT_FOLDER=/var/lib/molecule/init-$INIT_SHA256
LOG=/var/log/molecule-boot.log
CONTAINER=ws-$WORKSPACE-$GENERATION
exec >>"$LOG" 2>&1
STAGE='begin'
FAILED_WITH=''

# Whatever ends this early is told to the control plane, without what is secret; then the machine goes down.
finish() {
  code=$?
  trap - EXIT
  [ "$code" = 0 ] && exit 0
  echo "failed to $STAGE ($code)"
  tail -n 60 "$LOG" | while IFS= read -r line; do
    case "$line" in *"${TOKEN:-no token}"*) echo '(a line with a secret)' ;; *) printf '%s\n' "$line" ;; esac
  done | head -c 8000 | curl -fsS --max-time 20 --retry 10 --retry-delay 3 --retry-connrefused \
    -H "x-molecule-stage: $STAGE$FAILED_WITH" -H 'content-type: text/plain' --data-binary @- "$REPORT_URL"
  shutdown -h now
  exit "$code"
}
trap finish EXIT
trap 'exit 143' TERM INT
set -e

# Tries a command again for a while: networks, mirrors and registries come and go.
patiently() {
  for pause in 1 2 4 8 15 30 30 30; do
    "$@" && return 0
    sleep "$pause"
  done
  "$@"
}

# The data disk, by the name it was attached as, or as the NVMe disk of EBS that nothing is mounted from.
find_disk() {
  for name in /dev/sdf /dev/xvdf; do
    if [ -b "$name" ]; then DISK=$name; return 0; fi
  done
  for name in $(lsblk -dnpo NAME,MODEL | sed -n 's/ *Amazon Elastic Block Store.*//p'); do
    if ! lsblk -nro MOUNTPOINT "$name" | grep -q .; then DISK=$name; return 0; fi
  done
  return 1
}

# Calls a command with the image's own entrypoint and command behind its words, each word as it is.
with_image_command() {
  words=$(docker image inspect --format \
    '{{range .Config.Entrypoint}}{{printf "%s\x1e" .}}{{end}}{{range .Config.Cmd}}{{printf "%s\x1e" .}}{{end}}' "$IMAGE")
  separator=$(printf '\036')
  before=$IFS
  IFS=$separator
  set -f
  # shellcheck disable=SC2086
  set -- "$@" $words
  set +f
  IFS=$before
  "$@"
}

fetch_init() {
  curl -fsSL --max-time 60 -o "$INIT_FOLDER/$CONTAINER.new" "$INIT_URL" &&
    echo "$INIT_SHA256  $INIT_FOLDER/$CONTAINER.new" | sha256sum -c -
}

get_image() {
  docker image inspect "$IMAGE" >/dev/null 2>&1 || docker pull -q "$IMAGE"
}

# Numeric owner of the image's user, who may stand in the image's /etc/passwd only.
find_owner() {
  user=$(docker image inspect --format '{{.Config.User}}' "$IMAGE")
  group=0
  case "$user" in *:*) group=${user#*:}; user=${user%%:*} ;; esac
  case "$user" in
    '') OWNER=0:0 ;;
    *[!0-9]*)
      made=$(docker create "$IMAGE" -)
      OWNER=$(docker cp "$made:/etc/passwd" - | tar -xO | sed -n "s/^$user:[^:]*:\([0-9]*\):\([0-9]*\):.*/\1:\2/p")
      docker rm "$made" >/dev/null
      [ -n "$OWNER" ]
      ;;
    *) OWNER=$user:$group ;;
  esac
}

STAGE='install Docker'
if ! command -v docker >/dev/null; then
  if command -v dnf >/dev/null; then patiently dnf -y -q install docker
  else patiently apt-get -q update && patiently apt-get -yq install docker.io; fi
fi
docker info >/dev/null 2>&1 || systemctl enable --now docker
patiently docker info >/dev/null

STAGE='fetch workspace-init'
mkdir -p "$INIT_FOLDER"
chmod 0755 /var/lib/molecule "$INIT_FOLDER"
patiently fetch_init
chmod 0555 "$INIT_FOLDER/$CONTAINER.new"
mv -f "$INIT_FOLDER/$CONTAINER.new" "$INIT_FOLDER/workspace-init"

STAGE='find the data disk'
patiently find_disk
STAGE='mount the data disk'
kind=$(blkid -p -o value -s TYPE "$DISK") || { code=$?; [ "$code" = 2 ] || exit "$code"; kind=''; }
# only a disk that was made with this machine, and that has nothing on it, is formatted
if [ -z "$kind" ] && [ "$NEW_DISK" = yes ]; then mkfs.ext4 -q "$DISK"; fi
mkdir -p "$DATA"
mount "$DISK" "$DATA"
echo "UUID=$(blkid -o value -s UUID "$DISK") $DATA ext4 defaults,nofail,x-systemd.before=docker.service 0 2" >>/etc/fstab

STAGE="get the image $IMAGE"
patiently get_image
STAGE='prepare the volumes'
find_owner
discarded | while IFS= read -r name; do [ -z "$name" ] || rm -rf "${DATA:?}/$name"; done
volumes | while IFS= read -r name; do
  [ -d "$DATA/$name" ] || { mkdir "$DATA/$name"; chmod 0755 "$DATA/$name"; }
  chown "$OWNER" "$DATA/$name"
done
if [ -n "$TOKEN" ]; then
  printf %s "$TOKEN" >"$DATA/configs/$TOKEN_FILE"
  chown "$OWNER" "$DATA/configs/$TOKEN_FILE"
fi
if [ -n "$CA" ]; then
  printf %s "$CA" >"$DATA/configs/$CA_FILE"
  chmod 0644 "$DATA/configs/$CA_FILE"
fi

STAGE='start the container'
start "$IMAGE"

# A runtime that ends again and again right after its start is a failure that somebody waits to hear of.
STAGE='start the runtime'
for _ in $(seq 1 60); do
  sleep 2
  if [ "$(docker inspect --format '{{.RestartCount}}' "$CONTAINER")" -ge 4 ]; then
    FAILED_WITH=": it ended with $(docker inspect --format '{{.State.ExitCode}}' "$CONTAINER") again and again"
    docker logs --tail 40 "$CONTAINER"
    docker stop "$CONTAINER" >/dev/null
    exit 1
  fi
done
