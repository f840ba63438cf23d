%{
  configs: [
    %{
      name: "default",
      strict: true,
      files: %{
        included: ["lib/", "test/", "examples/", "bench/", "mix.exs"],
        excluded: []
      },
      checks: %{
        extra: [
          {Credo.Check.Readability.MaxLineLength, max_length: 120},
          {Credo.Check.Readability.LargeNumbers, files: %{excluded: ["test/"]}},
          {Credo.Check.Readability.Specs, files: %{excluded: ["test/", "examples/", "mix.exs"]}},
          {Credo.Check.Warning.UnsafeToAtom, files: %{excluded: ["test/"]}},
          # Test support needs no documentation, and examples are part of one.
          {Credo.Check.Readability.ModuleDoc, files: %{excluded: ["test/", "examples/"]}}
        ]
      }
    }
  ]
}
