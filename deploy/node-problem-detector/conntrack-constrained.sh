#!/bin/sh
# conntrack-constrained.sh [STATUS]: a plugin of node-problem-detector. Reads the status that conntrackd-guard publishes every
# 2 s, and prints one line of at most 80 characters. Exit code: 0 it can raise the limit, 1 something blocks that, 2 unknown.
status=${1:-/run/conntrackd-guard/status.json}
most=1048576 # bytes; a status has about 4,000
export LC_ALL=C

unknown() {
    printf 'unknown: %s\n' "$1"
    exit 2
}

[ -e "$status" ] || unknown "no status of conntrackd-guard. Is it running, and /run mounted?"
[ -f "$status" ] || unknown "the status of conntrackd-guard is no regular file"
[ -r "$status" ] || unknown "the status of conntrackd-guard can't be read"
content=$(head -c "$((most + 1))" "$status" 2>/dev/null) || unknown "the status of conntrackd-guard can't be read"
[ "${#content}" -le "$most" ] || unknown "the status of conntrackd-guard is too large"

newline='
'
case $content in
    *"$newline"*) unknown "not a status of conntrackd-guard" ;;
esac
# The guard writes one line of JSON. Within its texts each quotation mark has a backslash before it, so none matches here.
found=$(printf '%s\n' "$content" | sed -n '
/^{"version": 1, /!d
s/.*, "boottime_seconds": \([1-9][0-9]\{0,9\}\)[.,].*, "blocked_by": \(null\)}$/\1 \2/p
s/.*, "boottime_seconds": \([1-9][0-9]\{0,9\}\)[.,].*, "blocked_by": "\([a-z_]\{1,35\}\)"}$/\1 \2/p
' 2>/dev/null)
if [ -z "$found" ]; then
    case $content in
        *'}') unknown "not a status of conntrackd-guard" ;;
        *) unknown "the status of conntrackd-guard is cut short" ;;
    esac
fi
at=${found% *} by=${found#* }

read -r now _ </proc/uptime || unknown "/proc/uptime can't be read"
age=$((${now%%.*} - at))
# As `guard status`: five publications are missing.
[ "$age" -le 10 ] || unknown "conntrackd-guard has not answered for $age s"
[ "$age" -ge -1 ] || unknown "the status of conntrackd-guard is of another boot"

[ "$by" = null ] || {
    printf 'raising nf_conntrack_max is blocked: %s\n' "$(printf %s "$by" | sed 's/_/ /g')"
    exit 1
}
echo "conntrackd-guard can raise nf_conntrack_max"
