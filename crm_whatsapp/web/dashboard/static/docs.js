const place = document.getElementById("swagger-ui");
window.SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  deepLinking: true,
  validatorUrl: null, // asks nobody on the internet
});
