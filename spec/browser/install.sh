#!/bin/sh
# Puts the packages that package.json names into build/browser; done in a moment when they are there.
set -eu
cd "$(dirname "$0")"
from=$PWD
to=../../build/browser
mkdir -p "$to"
cd "$to"
if cmp -s "$from/package.json" package.json && [ -d node_modules/playwright-core ] && [ -d node_modules/axe-core ]; then
  exit 0
fi
rm -f package.json
cp "$from/package.json" package.new
mv package.new package.json
# A package.json without its packages would be taken for done the next time.
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --no-package-lock --no-audit --no-fund --loglevel=error || {
  rm -f package.json
  exit 1
}
