#!/bin/sh
echo '[  PASSED  ] 3 test(s).'
echo '[  FAILED  ] 1 test(s), listed below:'
exit 1
