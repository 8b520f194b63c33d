#!/bin/sh
echo '[  PASSED  ] 3 test(s).'
exit 23 # what the leak sanitizer does
