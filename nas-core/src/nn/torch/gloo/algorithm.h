#pragma once
// What c10d's headers name of Gloo. libtorch holds Gloo itself, but its packages leave the headers out.

namespace gloo {
class Algorithm;
}
