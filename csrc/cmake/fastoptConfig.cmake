# What find_package(fastopt) reads. Beside an installed library: its targets. Beside the sources, as in an installed Python
# package: the same targets, built from them as part of the project that asks.
if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/fastoptTargets.cmake)
    include(CMakeFindDependencyMacro)
    find_dependency(Threads)
    include(${CMAKE_CURRENT_LIST_DIR}/fastoptTargets.cmake)
elseif(NOT TARGET fastopt::fastopt)
    add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/fastopt EXCLUDE_FROM_ALL)
endif()
