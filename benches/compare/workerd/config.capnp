using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "notes", worker = .notes),
    # The folder is given on the command line.
    (name = "objects", disk = (writable = true)),
  ],
  sockets = [(name = "http", http = (), service = "notes")],
);

const notes :Workerd.Worker = (
  compatibilityDate = "2026-01-01",
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  durableObjectNamespaces = [(className = "Tenant", uniqueKey = "compare", enableSql = true)],
  durableObjectStorage = (localDisk = "objects"),
  bindings = [(name = "TENANTS", durableObjectNamespace = "Tenant")],
);
