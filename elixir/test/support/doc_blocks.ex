defmodule DSPexFleet.DocBlocks do
  @moduledoc false
  # The Elixir blocks of this package's README and of the fleet's documentation.

  @root Path.expand("../../..", __DIR__)
  @block ~r/^```elixir\n(.*?)^```$/ms

  @doc "Returns the pages with Elixir blocks, relative to the checkout; that of the package alone if there is none."
  @spec pages() :: [String.t()]
  def pages do
    ["README.md" | "../docs/**/*.md" |> Path.expand(package()) |> Path.wildcard()]
    |> Enum.map(&Path.expand(&1, package()))
    |> Enum.filter(&(blocks(&1) != []))
  end

  @doc "Returns the blocks of a page, each with a name for failures."
  @spec blocks(String.t()) :: [{String.t(), String.t()}]
  def blocks(page) do
    found = Regex.scan(@block, File.read!(page), capture: :all_but_first)
    for {[block], n} <- Enum.with_index(found, 1), do: {"#{Path.relative_to(page, @root)}, Elixir block #{n}", block}
  end

  @doc "Returns the blocks that are run: those that define modules are the package's examples, which have tests of their own."
  @spec scripts(String.t()) :: [{String.t(), String.t()}]
  def scripts(page), do: Enum.reject(blocks(page), fn {_place, block} -> example?(block) end)

  @doc "Returns whether a block defines a module."
  @spec example?(String.t()) :: boolean
  def example?(block), do: String.starts_with?(block, "defmodule ")

  @doc "Returns the sources of the examples."
  @spec examples() :: [String.t()]
  def examples, do: "examples/*.ex" |> Path.expand(package()) |> Path.wildcard() |> Enum.map(&File.read!/1)

  @doc "Returns the functions of this package that a block calls, as `{module, name, arity}`."
  @spec calls(String.t()) :: [{module, atom, non_neg_integer}]
  def calls(block) do
    {_ast, calls} = block |> Code.string_to_quoted!() |> Macro.prewalk([], &collect/2)
    calls
  end

  # `alias DSPexFleet.{Error, Session}` has the form of a call.
  defp collect({{:., _, [{:__aliases__, _, [:DSPexFleet | _] = path}, name]}, _, arguments} = node, calls)
       when name != :{},
       do: {node, [{Module.concat(path), name, length(arguments)} | calls]}

  defp collect(node, calls), do: {node, calls}

  defp package, do: Path.expand("../..", __DIR__)
end
