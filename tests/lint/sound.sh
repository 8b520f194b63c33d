#!/bin/sh
echo '[  PASSED  ] 1 test(s).'
