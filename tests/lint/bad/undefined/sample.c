#include <limits.h>
int main(int argc, char **argv) {
    (void)argv;
    int big = INT_MAX;
    return big + argc > 0; /* signed overflow */
}
