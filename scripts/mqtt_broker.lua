-- mqtt_broker.lua - a broker for MQTT 3.1.1. Edit it while clients are connected: they notice nothing.
--
--   portico --listen tcp://127.0.0.1:1883 scripts/mqtt_broker.lua [USER PASSWORD]
--   mosquitto_sub -v -t 'rooms/+' & mosquitto_pub -t rooms/kitchen -m 21.5 -r

local mqtt = require "portico.mqtt"

local user <const>, password <const> = arg[1], arg[2]
if user and not password then
  error("usage: portico mqtt_broker.lua [USER PASSWORD]", 0)
end

return mqtt.broker {
  workers = 1,
  authenticate = function(packet)
    return not user or packet.username == user and packet.password == password
  end,
  on_publish = function(client, packet)
    portico.log.debug(client.client_id, "publishes", #packet.payload, "bytes to", packet.topic)
  end,
}
