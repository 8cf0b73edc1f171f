#!/usr/bin/env bash
# The browser tests drive Debian's Chromium. Install it where that is possible; say so where it is not: the browser
# tests then skip, and print the same reason.
set -u
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "installing Debian's chromium for the browser tests"
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1 && exit 0
fi
echo "no Chromium here and it cannot be installed (not root, or no apt): the browser tests will be skipped"
