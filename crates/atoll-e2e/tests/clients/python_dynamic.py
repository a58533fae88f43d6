"""The official Python client's own tests of its dynamic client, as they come with it.

They want a module that is not in the package; it says how to reach the cluster.
"""

import sys
import types
import unittest

from kubernetes import client, config


def configuration():
    found = client.Configuration()
    config.load_kube_config(client_configuration=found)
    return found


base = types.ModuleType("kubernetes.e2e_test.base")
base.get_e2e_configuration = configuration
package = types.ModuleType("kubernetes.e2e_test")
package.base = base
sys.modules["kubernetes.e2e_test"] = package
sys.modules["kubernetes.e2e_test.base"] = base

names = [f"kubernetes.dynamic.{module}" for module in ("test_client", "test_discovery", "client_test")]
suite = unittest.defaultTestLoader.loadTestsFromNames(names)
result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
for test, trace in result.failures + result.errors:
    print("failed", test.id().rsplit(".", 1)[1], trace.strip().splitlines()[-1])
print("ran", result.testsRun)
