// system.hpp - what echo.cpp needs of Windows. Sockets that share a port do not share its connections there, and the compiler's threads
// are not everywhere: one worker only.
#include <stdexcept>

inline void raise_descriptors()
{
}

inline void share_port(asio::ip::tcp::acceptor &)
{
    throw std::runtime_error("one worker only");
}

template <class Run> void run_workers(int, Run run)
{
    run();
}
