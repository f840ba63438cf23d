# Generated code stays as it was generated, so that it can be compared.
[
  inputs:
    Enum.flat_map(["{mix,.formatter}.exs", "{lib,test,examples}/**/*.{ex,exs}"], &Path.wildcard(&1, match_dot: true)) --
      Path.wildcard("lib/dspex_fleet/wire/*.ex"),
  line_length: 120
]
