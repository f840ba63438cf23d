# Publishes a value, requests a prediction that must see it, and prints when the publish began, in microseconds of Unix
# time, and the value. The fleet's benchmark `elixir_publish` runs it, which knows when the LM got the request.
#
#     mix run bench/publish.exs 127.0.0.1:8061 500

alias DSPexFleet.{Connection, Session, Variables}

[target, count] = System.argv()
{:ok, connection} = Connection.start_link(target: target)
session = Session.new("elixir-publish", connection: connection)

# The first prediction builds the program.
DSPexFleet.predict!(session, "published", %{question: "?"}, at_least: Variables.set!(session, :warmth, 0.0))

for n <- 1..String.to_integer(count) do
  value = n / 10_000
  began = System.os_time(:microsecond)
  token = Variables.set!(session, :warmth, value)
  DSPexFleet.predict!(session, "published", %{question: "Question #{n}?"}, at_least: token)
  IO.puts("#{began} #{value}")
end
