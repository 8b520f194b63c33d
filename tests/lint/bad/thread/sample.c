#include <pthread.h>
static int shared;
static void *add(void *arg) {
    for (int i = 0; i < 100000; i++)
        shared++; /* a race */
    return arg;
}
int main(void) {
    pthread_t other;
    pthread_create(&other, 0, add, 0);
    add(0);
    return pthread_join(other, 0);
}
