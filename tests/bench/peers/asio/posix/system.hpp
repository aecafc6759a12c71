// system.hpp - what echo.cpp needs of a POSIX system.
#include <sys/resource.h>
#include <thread>
#include <vector>

inline void raise_descriptors()
{
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

inline void share_port(asio::ip::tcp::acceptor &a)
{
    a.set_option(asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>(true));
}

template <class Run> void run_workers(int workers, Run run)
{
    std::vector<std::thread> others;
    for (int i = 1; i < workers; i++) others.emplace_back(run);
    run();
}
