defmodule DSPexFleet.Gateway.DocsTest do
  # The blocks take their gateway from the application's configuration, which belongs to all tests.
  use DSPexFleet.GatewayCase, async: false

  alias DSPexFleet.DocBlocks

  setup do
    for {key, value} <- [target: target(), token: System.get_env("DSPEX_FLEET_TOKEN")] do
      Application.put_env(:dspex_fleet, key, value)
      on_exit(fn -> Application.delete_env(:dspex_fleet, key) end)
    end

    # Some blocks are about a session that others have published.
    ctx = start_supervised!({Context, session: "support"})
    Variables.set!(ctx, :llm_temperature, 0.5)
    bound = %{signature: "question -> answer", bindings: %{temperature: "llm_temperature"}}
    Programs.register!(ctx, "reasoned", Map.put(bound, :module, %{variable: "reasoning_module"}))
    for name <- ["explain", "qa"], do: Programs.register!(ctx, name, Map.put(bound, :module, "Predict"))
    :ok
  end

  for page <- DocBlocks.pages(), DocBlocks.scripts(page) != [] do
    test "the blocks of #{Path.basename(page)} run, one after the other" do
      {answers, _bindings} =
        Enum.map_reduce(DocBlocks.scripts(unquote(page)), [], fn {place, block}, bindings ->
          {result, bindings} = evaluate(block, bindings, place)
          if block =~ ~s(.outputs["answer"]), do: assert(result =~ "sky blue", "#{place} returned #{inspect(result)}")
          {result, bindings}
        end)

      assert answers != []
    end
  end

  defp evaluate("config " <> _rest = block, bindings, place),
    do: {Config.Reader.eval!(place, "import Config\n" <> block), bindings}

  defp evaluate(block, bindings, place), do: Code.eval_string(block, bindings, file: place)
end
