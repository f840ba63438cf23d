defmodule DSPexFleet.Pages do
  @moduledoc false
  # Listings that come in pages: read to their end or up to a limit, or streamed.

  alias DSPexFleet.{Call, Error, Session, Variable}

  @page_size 100

  @type result(value) :: {:ok, value} | {:error, Error.t()}

  @doc """
  Reads the pages of an operation and returns the items of its field, each as `read` has it.

  `build` adds to the message of a page what the listing is of; the options have a `:timeout` for each page, and a `:limit`.
  """
  @spec read(Session.ref(), atom, {String.t(), String.t()}, (map -> map), keyword, (map -> result(item))) ::
          result([item])
        when item: term
  def read(session, name, listing, build, opts, read),
    do: session |> fetcher(name, listing, build, opts, read) |> collect(opts[:limit], "", [])

  @doc """
  Streams the items of `read/6`, each as `{:ok, item}`, to their end or an error.

  A page of `:page_size` items is read when the stream gets there.
  """
  @spec stream(Session.ref(), atom, {String.t(), String.t()}, (map -> map), keyword, (map -> result(item))) ::
          Enumerable.t(result(item))
        when item: term
  def stream(session, name, listing, build, opts, read) do
    fetch = fetcher(session, name, listing, build, opts, read)
    Stream.resource(fn -> {:next, ""} end, &next(&1, fetch, opts[:page_size]), fn _state -> :ok end)
  end

  # The function that returns a page's items and the token of the next page, which is empty for none.
  defp fetcher(session, name, {operation, field}, build, opts, read) do
    fn size, page_token ->
      message = build.(%{"page_size" => size, "page_token" => page_token})
      answered = Call.run(session, name, operation, fn _session -> message end, opts[:timeout])
      with {:ok, answer} <- answered, do: page(answer, field, read)
    end
  end

  defp page(answer, field, read) do
    with {:ok, items} <- Variable.traverse(answer[field], read), do: {:ok, items, answer["next_page_token"] || ""}
  end

  defp collect(fetch, limit, page_token, before) do
    # Atoms are above all numbers: without a limit, each page is a whole one.
    size = min(@page_size, limit && limit - length(before))

    with {:ok, page, next} <- fetch.(size, page_token) do
      items = before ++ page
      if next == "" or length(items) == limit, do: {:ok, items}, else: collect(fetch, limit, next, items)
    end
  end

  defp next(:ended, _fetch, _size), do: {:halt, :ended}

  defp next({:next, page_token}, fetch, size) do
    case fetch.(size, page_token) do
      {:ok, items, next} -> {Enum.map(items, &{:ok, &1}), if(next == "", do: :ended, else: {:next, next})}
      {:error, error} -> {[{:error, error}], :ended}
    end
  end
end
