defmodule DSPexFleet.Pages do
  @moduledoc false
  # Listings that come in pages, read to their end or up to a limit.

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
  def read(session, name, listing, build, opts, read), do: read(session, name, listing, build, opts, read, "", [])

  defp read(session, name, {operation, field} = listing, build, opts, read, page_token, before) do
    # Atoms are above all numbers: without a limit, each page is a whole one.
    size = min(@page_size, opts[:limit] && opts[:limit] - length(before))
    message = build.(%{"page_size" => size, "page_token" => page_token})

    with {:ok, answer} <- Call.run(session, name, operation, fn _session -> message end, opts[:timeout]),
         {:ok, page} <- Variable.traverse(answer[field], read) do
      items = before ++ page

      if answer["next_page_token"] == "" or length(items) == opts[:limit],
        do: {:ok, items},
        else: read(session, name, listing, build, opts, read, answer["next_page_token"], items)
    end
  end
end
