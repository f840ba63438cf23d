%{
  configs: [
    %{
      name: "default",
      strict: true,
      files: %{
        included: ["lib/", "test/", "examples/", "mix.exs"],
        # Generated code stays as it was generated.
        excluded: ["lib/dspex_fleet/wire/"]
      },
      checks: %{
        extra: [
          {Credo.Check.Readability.MaxLineLength, max_length: 120},
          {Credo.Check.Readability.LargeNumbers, files: %{excluded: ["test/"]}},
          {Credo.Check.Readability.Specs, files: %{excluded: ["test/", "mix.exs"]}},
          {Credo.Check.Warning.UnsafeToAtom, files: %{excluded: ["test/"]}},
          # Test support needs no documentation.
          {Credo.Check.Readability.ModuleDoc, files: %{excluded: ["test/"]}}
        ]
      }
    }
  ]
}
