defmodule DSPexFleet.DocsTest do
  use ExUnit.Case, async: true

  alias DSPexFleet.DocBlocks

  # test/gateway/docs_test.exs runs them, and test/examples the examples.
  test "the Elixir blocks of the documentation parse, and call functions that exist" do
    pages = DocBlocks.pages()
    assert pages != []

    for page <- pages, {place, block} <- DocBlocks.blocks(page), {module, name, arity} <- DocBlocks.calls(block) do
      assert Code.ensure_loaded?(module), "#{place}: there is no #{inspect(module)}"
      assert function_exported?(module, name, arity), "#{place}: there is no #{inspect(module)}.#{name}/#{arity}"
    end
  end

  test "each block that defines a module is an example, and each example is on a page" do
    examples = DocBlocks.examples()

    blocks =
      for page <- DocBlocks.pages(), {_place, block} <- DocBlocks.blocks(page), DocBlocks.example?(block), do: block

    assert examples != []
    assert Enum.sort(blocks) == Enum.sort(examples)
  end
end
