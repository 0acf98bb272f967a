#!/bin/sh
exec node "$(dirname "$0")/emulator.mjs" "$@"
