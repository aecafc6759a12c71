/* Linked with the whole of one layer's library and with those below it: see tests/CMakeLists.txt. */
int main(void)
{
    return 0;
}
