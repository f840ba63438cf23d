defmodule DSPexFleet.Connection.Circuits do
  @moduledoc false
  # Which gateways of a connection are up, readable and writable by every caller without a message.

  # Three cells for each gateway, and one for the next turn.
  @up 1
  @checked 2
  @downs 3
  @cells 3

  @type t :: :atomics.atomics_ref()

  @spec new(pos_integer) :: t
  def new(count), do: :atomics.new(1 + count * @cells, signed: true)

  @spec up?(t, non_neg_integer) :: boolean
  def up?(circuits, index), do: :atomics.get(circuits, cell(index, @up)) == 1

  @spec any_up?(t, pos_integer) :: boolean
  def any_up?(circuits, count), do: Enum.any?(0..(count - 1), &up?(circuits, &1))

  @doc "Marks a gateway as up or down, and returns whether that is news."
  @spec set(t, non_neg_integer, :up | :down) :: boolean
  def set(circuits, index, state) do
    value = if state == :up, do: 1, else: 0
    news? = :atomics.exchange(circuits, cell(index, @up), value) != value
    if news? and state == :down, do: :atomics.add(circuits, cell(index, @downs), 1)
    news?
  end

  @doc "Returns how often a gateway went down: connections that are older than the last time are of no use."
  @spec downs(t, non_neg_integer) :: non_neg_integer
  def downs(circuits, index), do: :atomics.get(circuits, cell(index, @downs))

  @doc "Returns the index of a gateway that is up, each in turn, or nil."
  @spec next_up(t, pos_integer) :: non_neg_integer | nil
  def next_up(circuits, count) do
    turn = :atomics.add_get(circuits, 1, 1)
    Enum.find(turn..(turn + count - 1), &up?(circuits, rem(&1, count))) |> then(&(&1 && rem(&1, count)))
  end

  @doc "Returns true for one caller of all that ask within `pause_ms`."
  @spec first_doubt?(t, non_neg_integer, pos_integer) :: boolean
  def first_doubt?(circuits, index, pause_ms) do
    now = System.monotonic_time(:millisecond)
    last = :atomics.get(circuits, cell(index, @checked))

    (last == 0 or now - last >= pause_ms) and
      :atomics.compare_exchange(circuits, cell(index, @checked), last, now) == :ok
  end

  defp cell(index, part), do: 1 + index * @cells + part
end
