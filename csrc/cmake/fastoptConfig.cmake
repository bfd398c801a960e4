# find_package(fastopt) reads this file. Beside an installed library it defines the targets of that library. Beside the
# sources, as in the installed Python package, it defines the same targets and builds them as part of the calling project.
if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/fastoptTargets.cmake)
    include(CMakeFindDependencyMacro)
    find_dependency(Threads)
    include(${CMAKE_CURRENT_LIST_DIR}/fastoptTargets.cmake)
elseif(NOT TARGET fastopt::fastopt)
    add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/fastopt EXCLUDE_FROM_ALL)
endif()
