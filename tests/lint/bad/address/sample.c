#include <stdlib.h>
int main(int argc, char **argv) {
    (void)argv;
    char *p = malloc(8);
    free(p);
    return p[argc]; /* used after free */
}
