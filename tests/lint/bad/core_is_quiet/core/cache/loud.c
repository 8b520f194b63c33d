#include <stdio.h>
void f(void);
void f(void) { printf("hello"); }
