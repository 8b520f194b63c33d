#!/bin/sh
exit 0 # no test was run
