/* main_posix.c - the entry where arguments are bytes already. */
#include "main.h"

int main(int argc, char **argv)
{
    return portico_main(argc, argv);
}
